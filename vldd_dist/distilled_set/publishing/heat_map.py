"""A matrix as an image: blue below zero, white at zero, red above."""

import io
import math

import torch
from PIL import Image
from torch import Tensor

# Of a larger matrix, only the first rows and columns are drawn.
LARGEST = 200
SMALLEST_SIDE = 400
RED, BLUE = (0.70, 0.09, 0.17), (0.13, 0.40, 0.67)


def heat_map(matrix: Tensor) -> bytes:
    """A PNG of a matrix (M, M) with a square for each number; the largest absolute value has the full colour."""
    shown = matrix[:LARGEST, :LARGEST].detach().cpu().float()
    strength = (shown / shown.abs().max().clamp(min=1e-12))[..., None]
    colours = torch.where(strength > 0, torch.tensor(RED), torch.tensor(BLUE))
    pixels = (1 - strength.abs() * (1 - colours)).mul(255).round().to(torch.uint8)
    scale = math.ceil(SMALLEST_SIDE / len(shown))
    enlarged = pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    buffer = io.BytesIO()
    Image.fromarray(enlarged.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
