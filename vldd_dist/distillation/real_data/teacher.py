"""Experts as teachers: their similarities of real pairs, which say more than which text is an image's own (Hinton et al.
1503.02531)."""

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.distillation.experts import Experts
from vldd_dist.distillation.student.unrolling import RealRows, Unrolling
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.models.parameters import TOWERS


class Teacher:
    """All experts together, with the parameters of their last epoch.

    Args:
        unrolling: of the experts' model; on several ranks each keeps its shards of the experts.
        experts: all are committed; they are read here.
    """

    def __init__(self, unrolling: Unrolling, experts: Experts) -> None:
        self.unrolling = unrolling
        last = ((experts[index], experts[index].epochs[-1]) for index in range(experts.count))
        self.parameters = [
            unrolling.theta(*(trajectory.snapshot(epoch, tower) for tower in TOWERS)) for trajectory, epoch in last
        ]

    def similarities(self, rows: RealRows) -> Tensor:
        """(B, B) of all rows, images by texts: the mean over experts of the cosines, without dropout. All ranks
        call together."""
        found = [cosines(*self.unrolling.features(theta, rows)) for theta in self.parameters]
        return torch.stack(found).mean(dim=0)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against softmax(targets), the mean over rows and over columns of both (B, B)."""
    return (
        functional.cross_entropy(logits, targets.softmax(dim=1)) + functional.cross_entropy(logits.T, targets.T.softmax(dim=1))
    ) / 2
