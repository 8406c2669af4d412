"""Encodes images for HTML pages."""

import io
from typing import Any

import numpy as np
from PIL import Image

# Images narrower than this are stored losslessly and enlarged without smoothing. Others are compressed, because a page embeds
# all its images.
SMALL_WIDTH = 128
QUALITY = 92


def encode_picture(image: Any) -> bytes:
    """A small image as PNG, a larger one as JPEG.

    Args:
        image: a tensor or array (3, H, W), uint8, or floating point in 0..1 (values outside are clipped).
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        pixels = (pixels.clip(0.0, 1.0) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    file = io.BytesIO()
    if picture.width < SMALL_WIDTH:
        picture.save(file, format="PNG")
    else:
        picture.save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def is_small(picture: bytes) -> bool:
    """Whether a page enlarges the image without smoothing."""
    with Image.open(io.BytesIO(picture)) as image:
        return image.width < SMALL_WIDTH


def is_png(picture: bytes) -> bool:
    return picture.startswith(b"\x89PNG")
