"""Experts as teachers: their similarities between all real images and texts are soft targets, which carry more information than
which text belongs to which image (Hinton et al. 1503.02531)."""

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.student.unroller import Unroller, in_mode
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.models.parameters import TOWERS


class Teacher:
    """The mean of all experts, each with the parameters of its last epoch.

    Args:
        unroller: runs a model like the experts'; with several ranks each keeps its shards of the experts in memory.
        experts: all must be committed; they are read here.
    """

    def __init__(self, unroller: Unroller, experts: Experts) -> None:
        self.unroller = unroller
        self.parameters = []
        for index in range(experts.count):
            trajectory = experts[index]
            self.parameters.append(unroller.theta(*(trajectory.snapshot(trajectory.epochs[-1], tower) for tower in TOWERS)))

    def similarities(self, rows: RealRows) -> Tensor:
        """(B, B) similarities of all rows, images by texts: the mean of the experts' cosines, without dropout. All ranks must
        call it together."""
        # Switched here, and not by `features` for each expert.
        with in_mode(self.unroller.model, training=False):
            similarities = [cosines(*self.unroller.features(theta, rows)) for theta in self.parameters]
        return torch.stack(similarities).mean(dim=0)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against softmax(targets), both (B, B), averaged over rows and over columns."""
    return (
        functional.cross_entropy(logits, targets.softmax(dim=1)) + functional.cross_entropy(logits.T, targets.T.softmax(dim=1))
    ) / 2
