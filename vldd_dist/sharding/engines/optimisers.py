"""The parameters and the momentum of a torch optimiser."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def parameters_of(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimiser, in the order of its groups."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def momentum_of(optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The momentum buffer of each parameter, zeros for one that has got no gradient; an empty list before the first step."""
    buffers = [optimiser.state[parameter].get("momentum_buffer") for parameter in parameters]
    if all(buffer is None for buffer in buffers):
        return []
    return [torch.zeros_like(p) if buffer is None else buffer for p, buffer in zip(parameters, buffers, strict=True)]
