"""Names of image files."""

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# Image formats that are not read. A file of one that has captions is a sample that its owner counts on.
_OTHER_EXTENSIONS = frozenset(
    ("arw", "avif", "bmp", "cr2", "dng", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jxl", "nef", "ppm", "svg", "tif", "tiff")
)


def has_image_extension(name: str) -> bool:
    """Whether a file's name ends like that of an image that can be read; capital letters count as small ones."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def has_other_image_extension(name: str) -> bool:
    """Whether a file's name ends like that of an image of a format that is not read."""
    return name.rpartition(".")[2].lower() in _OTHER_EXTENSIONS
