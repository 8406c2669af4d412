"""Names of image files."""

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


def has_image_extension(name: str) -> bool:
    """Whether a file's name ends like that of an image that can be read; capital letters count as small ones."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS
