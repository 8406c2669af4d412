"""Gradient clipping by the norm over all ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vldd_dist.sharding.ranks import Ranks


def clipped(gradients: Mapping[str, Tensor], limit: float, ranks: Ranks) -> dict[str, Tensor]:
    """This rank's gradients, all scaled alike so that the norm of those of all ranks together is at most the limit."""
    squares = ranks.all_reduce(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum())
    scale = (limit / squares.sqrt()).clamp(max=1)
    return {name: gradient * scale for name, gradient in gradients.items()}
