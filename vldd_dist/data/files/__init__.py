"""Other people's files: tars and image folders, local or remote, read in ranges, with a version of their content."""
