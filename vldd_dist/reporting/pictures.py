"""Images as a page shows them."""

import io
from typing import Any

import numpy as np
from PIL import Image

# Narrower images are enlarged pixel by pixel and kept exactly; others are compressed, since a page embeds all it shows.
SMALL_WIDTH = 128
QUALITY = 92


def encode_picture(image: Any) -> bytes:
    """PNG of a small image, else JPEG.

    Args:
        image: a tensor or array (3, H, W), uint8, or floating point in 0..1 (learned pixels outside are clipped).
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
    """Whether a page enlarges it pixel by pixel."""
    with Image.open(io.BytesIO(picture)) as image:
        return image.width < SMALL_WIDTH


def is_png(picture: bytes) -> bool:
    return picture.startswith(b"\x89PNG")
