"""Sources of images and captions, one file each, registered in `plugins.SOURCES`."""
