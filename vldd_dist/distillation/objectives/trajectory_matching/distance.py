"""The outer loss: how far the student ends from the expert (Cazenavette et al. 2203.11932; Wu et al. 2308.07545, eq. 3)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vldd_dist.errors import DataError
from vldd_dist.sharding.ranks import SOLO, Ranks

Params = Sequence[Tensor]
TOWERS = ("image", "text")


def matching_loss(theta: Params, start: Params, target: Params, towers: Sequence[int], ranks: Ranks = SOLO) -> Tensor:
    """Squared distance of the student's end from the expert's, over the expert's own squared way, tower by tower.

    Args:
        theta, start, target: parameters of the student's end, of both at their start, of the expert's end; of several ranks
            each its shards.
        towers: 0 (image) or 1 (text) for each tensor.

    Returns:
        (2,) terms of the image and the text tower; their sum is the loss. A tower without parameters gives 0.

    Raises:
        DataError: the expert's tower did not move, so there is nothing to match.
    """
    terms = []
    for tower, name in enumerate(TOWERS):
        owned = [entry for entry, owner in zip(zip(theta, start, target, strict=True), towers, strict=True) if owner == tower]
        if not owned:
            terms.append(theta[0].new_zeros(()))
            continue
        distance = ranks.all_reduce_of_parts(torch.stack([(end - goal).square().sum() for end, _, goal in owned]).sum())
        way = ranks.all_reduce(torch.stack([(begin - goal).square().sum() for _, begin, goal in owned]).sum())
        if not bool(way > 0):
            raise DataError(f"the expert's {name} tower did not move between the snapshots: there is nothing to match")
        terms.append(distance / way)
    return torch.stack(terms)


def distance_to(target: Params, start: Params, towers: Sequence[int], ranks: Ranks = SOLO) -> Callable[[Params], Tensor]:
    """The matching loss as a function of the student's end; see `matching_loss`."""
    return lambda theta: matching_loss(theta, start, target, towers, ranks)
