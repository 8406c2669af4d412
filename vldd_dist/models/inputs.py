"""Frozen image towers: work in feature space, and one vector-Jacobian product from there to the pixels.

When the backbone does not move, its features of a picture are always the same: a student's training computes them once, the
unroll runs on them, and its gradient is carried to the pixels at the end of the outer step. With a backbone that moves both
functions below are the identity.
"""

import torch
from torch import Tensor

from vldd_dist.models.dual_encoder import DualEncoder

# Pictures whose activations are alive at once.
CHUNK = 64


@torch.no_grad()
def model_inputs(model: DualEncoder, images: Tensor) -> Tensor:
    """`model.inputs` of normalised pictures (M, 3, H, W), without a graph."""
    return torch.cat([model.inputs(chunk) for chunk in images.split(CHUNK)]) if model.frozen_backbone else images


def pixel_gradients(model: DualEncoder, images: Tensor, gradients: Tensor) -> Tensor:
    """From gradients of `model_inputs` (M, ...) to gradients of the pictures (M, 3, H, W)."""
    if not model.frozen_backbone:
        return gradients
    found: list[Tensor] = []
    for chunk, gradient in zip(images.split(CHUNK), gradients.split(CHUNK), strict=True):
        leaf = chunk.detach().requires_grad_()
        found.extend(torch.autograd.grad(model.inputs(leaf), leaf, gradient))
    return torch.cat(found)
