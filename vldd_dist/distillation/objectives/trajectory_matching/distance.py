"""The matching loss: how far the student ends from the expert (Cazenavette et al. 2203.11932; Wu et al. 2308.07545, eq. 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vldd_dist.distillation.unroll import Tensors
from vldd_dist.errors import DataError
from vldd_dist.models.parameters import TOWERS
from vldd_dist.sharding.ranks import SOLO, Ranks


def matching_loss(theta: Tensors, start: Tensors, target: Tensors, towers: Sequence[int], ranks: Ranks = SOLO) -> Tensor:
    """|theta - target|^2 / |start - target|^2 for each tower: the student's squared distance from the target, relative to the
    squared distance that the expert moved.

    Args:
        theta: the student's parameters after its steps; with several ranks this rank's shards.
        start: the expert's parameters where the student started, likewise.
        target: the expert's parameters that the student should reach, likewise.
        towers: 0 (image) or 1 (text) for each tensor.

    Returns:
        (2,) terms of the image and the text tower; the loss is their sum. The term of a tower without parameters is 0.

    Raises:
        DataError: the expert's tower did not move, so that there is nothing to match.
    """
    terms = []
    for tower, name in enumerate(TOWERS):
        indices = [index for index, owner in enumerate(towers) if owner == tower]
        if not indices:
            terms.append(theta[0].new_zeros(()))
            continue
        remaining = torch.stack([(theta[index] - target[index]).square().sum() for index in indices]).sum()
        moved = torch.stack([(start[index] - target[index]).square().sum() for index in indices]).sum()
        remaining, moved = ranks.sum_of_parts(remaining), ranks.sum_in_place(moved)
        if not bool(moved > 0):
            raise DataError(
                f"the expert's {name} tower did not move between the two snapshots: raise experts.lr_{name} or "
                "distill.objective.expert_epochs"
            )
        terms.append(remaining / moved)
    return torch.stack(terms)
