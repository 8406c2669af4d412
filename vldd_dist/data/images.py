"""Pictures between bytes, PIL and tensors."""

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vldd_dist.errors import DataError

# A picture that decodes to more pixels than this is a mistake or an attack (a decompression bomb).
MAX_PIXELS = 178_956_970


def decode(data: bytes, source: str) -> Image.Image:
    """An RGB picture. Raises DataError naming the source when the bytes are no whole picture."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{source}: {image.width} x {image.height} pixels is too large to be a photograph: remove it")
        return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{source}: not a readable JPEG, PNG or WebP picture ({' '.join(str(error).split())})") from None


def resize(image: Image.Image, size: int, how: str) -> Image.Image:
    """`size` pixels square, bicubic: 'squash' both sides, or 'crop' the centre of the short side's scale."""
    if how == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)


def encode(image: Image.Image) -> tuple[str, bytes]:
    """The extension and bytes a prepared picture is stored with: JPEG of quality 95, and PNG up to 64 pixels, where
    JPEG's blocks are as large as what they show."""
    buffer = io.BytesIO()
    if max(image.size) <= 64:
        image.save(buffer, "PNG")
        return "png", buffer.getvalue()
    image.save(buffer, "JPEG", quality=95)
    return "jpg", buffer.getvalue()


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def to_picture(image: Tensor) -> Image.Image:
    """Back from (3, H, W) uint8."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())
