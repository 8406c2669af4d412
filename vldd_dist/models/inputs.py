"""Frozen image towers: training on features, and a vector-Jacobian product from features to pixels.

If the backbone is frozen, an image's features are always the same. Then a student's training computes them once, the unroll
runs on features, and its gradient is carried to the pixels once at the end of an outer step. If the backbone is trainable, both
functions below are the identity.
"""

import torch
from torch import Tensor

from vldd_dist.models.dual_encoder import DualEncoder

# Number of images whose activations are in memory at once.
CHUNK = 64


@torch.no_grad()
def model_inputs(model: DualEncoder, images: Tensor) -> Tensor:
    """`model.inputs` of normalised images (M, 3, H, W), without a graph."""
    return torch.cat([model.inputs(chunk) for chunk in images.split(CHUNK)]) if model.frozen_backbone else images


def pixel_gradients(model: DualEncoder, images: Tensor, gradients: Tensor) -> Tensor:
    """From gradients of `model_inputs` (M, ...) to gradients of the images (M, 3, H, W)."""
    if not model.frozen_backbone:
        return gradients
    found: list[Tensor] = []
    for chunk, gradient in zip(images.split(CHUNK), gradients.split(CHUNK), strict=True):
        leaf = chunk.detach().requires_grad_()
        found.extend(torch.autograd.grad(model.inputs(leaf), leaf, gradient))
    return torch.cat(found)
