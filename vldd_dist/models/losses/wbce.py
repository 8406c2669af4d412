"""Weighted binary cross-entropy, the loss of LoRS."""

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.config.base import Rate
from vldd_dist.models.losses.graded import GradedLoss

# Keeps the logarithms finite, as published.
EPSILON = 1e-6
# Above it an image and a text count as a pair.
PAIRED = 0.5


class WeightedBCE(GradedLoss):
    """Binary cross-entropy of every image with every text against S, where the pairs, s > 0.5, weigh as much as all others
    (LoRS, Xu et al. 2406.03793):

        l = -s log(p + 1e-6) - (1 - s) log(1 - p + 1e-6),   p = sigmoid(logit)
        loss = (mean of l over s > 0.5 + mean of l over the rest) / 2

    Which side of 0.5 an s is on has no gradient. A mean over nothing is 0.
    """

    name: str = "wbce"
    temperature: Rate = Field(
        0.2,
        description="The cosine similarities are divided by it (published: 0.07, at which a student's first steps overshoot on "
        "features that are all alike).",
    )

    def of_similarity(self, logits: Tensor, similarity: Tensor) -> Tensor:
        # 1 - p as a sigmoid of its own: the difference has no correct digit where p is near 1.
        paired, apart = (torch.log(torch.sigmoid(side) + EPSILON) for side in (logits, -logits))
        losses = -similarity * paired - (1 - similarity) * apart
        mask = similarity.detach() > PAIRED
        return (_mean_where(mask, losses) + _mean_where(~mask, losses)) / 2


def _mean_where(mask: Tensor, values: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
