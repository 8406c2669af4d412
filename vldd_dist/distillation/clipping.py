"""Gradient clipping by the norm over all ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vldd_dist.sharding.ranks import Ranks


def clipped(gradients: Mapping[str, Tensor], limit: float, ranks: Ranks) -> dict[str, Tensor]:
    """This rank's gradients, scaled by one factor so that the norm over the gradients of all ranks is at most `limit`."""
    squares = ranks.sum_in_place(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum())
    scale = (limit / squares.sqrt()).clamp(max=1)
    return {name: gradient * scale for name, gradient in gradients.items()}
