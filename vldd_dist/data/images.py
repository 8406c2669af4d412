"""Converting images between encoded bytes, PIL and tensors."""

import io
import warnings

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from vldd_dist.errors import DataError, message_of

# An image with more pixels than this is a mistake or an attack (a decompression bomb). It is Pillow's limit; from half of it on
# Pillow also warns, in words that would frighten the owner of a panorama.
MAX_PIXELS = 178_956_970
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# The transformation that turns a stored image upright, by its EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow scales pixels of 2, 4 and (in colour) 16 bits to 8 bits, but not the value that marks transparent pixels.
_SCALE_OF_TRANSPARENT = {"L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}


def decode(data: bytes, source: str) -> Image.Image:
    """An RGB image as a viewer shows it: upright, 16 bits scaled to 8, transparent pixels on white.

    Raises:
        DataError: the bytes are not a complete JPEG, PNG or WebP image, or it has too many pixels; the message names `source`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        rgb, method = on_white(image), UPRIGHT.get(_orientation(image))
        return rgb if method is None else rgb.transpose(method)
    except Image.DecompressionBombError:
        raise DataError(f"{source}: more than {MAX_PIXELS:,} pixels: make it smaller, or remove it") from None
    except UnidentifiedImageError:
        # Pillow's text has an address in memory.
        raise DataError(
            f"{source}: not a readable JPEG, PNG or WebP image (another format, or its beginning is damaged): convert it, or "
            "remove the entry"
        ) from None
    except Exception as error:
        # For invalid bytes, decoders raise more kinds of exceptions than they document.
        raise DataError(f"{source}: not a readable JPEG, PNG or WebP image ({message_of(error)})") from None


def on_white(image: Image.Image) -> Image.Image:
    """The image as RGB: 16 bits scaled to 8, transparent pixels on white."""
    # The tiles of a file that is not yet read say how its pixels are stored.
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else []
    scale = _SCALE_OF_TRANSPARENT.get(str(tile[0][3])) if tile else None
    image.load()
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image).astype(np.uint32), transparent)
    if transparent is not None and scale is not None:
        levels = transparent if isinstance(transparent, tuple) else (transparent,)
        scaled = tuple(int(level * scale) for level in levels)
        image.info["transparency"] = scaled if len(scaled) > 1 else scaled[0]
    if "A" not in image.getbands() and transparent is None:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def _from_16_bits(levels: np.ndarray, transparent: int | None) -> Image.Image:
    """An RGB image from 16-bit grey values (H, W) uint32, which `convert` would clip at 255."""
    grey = ((levels * 255 + 32767) // 65535).astype(np.uint8)
    grey[levels == (-1 if transparent is None else transparent)] = 255
    return Image.fromarray(grey).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if there is none or the EXIF block is damaged: the image may still be usable."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def resize(image: Image.Image, size: int, how: str) -> Image.Image:
    """Resize to `size` x `size` pixels, bicubic: 'squash' changes the aspect ratio, 'crop' takes the central square."""
    if how == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)


def encode(image: Image.Image) -> tuple[str, bytes]:
    """The file extension and bytes of a prepared image: JPEG of quality 95, or PNG up to 64 pixels, because JPEG's blocks are
    as large as the objects in such an image."""
    buffer = io.BytesIO()
    if max(image.size) <= 64:
        image.save(buffer, "PNG")
        return "png", buffer.getvalue()
    image.save(buffer, "JPEG", quality=95)
    return "jpg", buffer.getvalue()


def to_tensor(image: Image.Image) -> Tensor:
    """To (3, H, W) uint8."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """From (3, H, W) uint8."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())
