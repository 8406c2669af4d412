"""Untrusted files: tars and folders of images, local or remote, read in ranges, and versions of their content."""
