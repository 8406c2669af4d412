"""The sections of a description, a file each."""
