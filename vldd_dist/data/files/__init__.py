"""Untrusted files of a source: JSON files, tars and folders of images, local or remote; the checks of their names and captions;
the versions of their content."""
