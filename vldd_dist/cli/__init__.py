"""The command `vldd`: one file for each group of commands."""
