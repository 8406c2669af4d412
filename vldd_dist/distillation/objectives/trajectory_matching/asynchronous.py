"""Start epochs of the towers drawn apart (AMD, Asynchronous Matching with Dynamic sampling, ICLR 2026): image and text towers
learn at different paces, so the states that serve one as a start need not be those that serve the other."""

from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import Self

import torch
from pydantic import Field, model_validator

from vldd_dist.config.base import Distinct, NonNegative, Section
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import squared_lengths
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs, States
from vldd_dist.sharding.ranks import Ranks


class Asynchronous(Section):
    """The image tower starts at one epoch and the text tower, independently, at another; each is to reach its expert's state
    `expert_epochs` later."""

    image: Distinct[NonNegative] | None = Field(None, description="Start epochs of the image tower; none: all starts.")
    text: Distinct[NonNegative] | None = Field(None, description="Start epochs of the text tower; none: all starts.")
    auto: bool = Field(
        False,
        description=(
            "Of all starts each tower has those at which the experts move it the more: with r the image tower's way over the "
            "text tower's, those of r at least, or at most, its median."
        ),
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.auto and (self.image or self.text):
            raise ValueError("auto finds the starts of both towers: leave image and text out, or auto")
        return self

    def starts(self, every: Sequence[int]) -> list[Epochs]:
        """What is drawn from.

        Args:
            every: all starts.
        """
        return list(product(self.image or every, self.text or every))


def starts_by_pace(
    states: States, experts: range, every: Sequence[int], expert_epochs: int, ranks: Ranks
) -> tuple[list[int], list[int]]:
    """The starts of the image and of the text tower by the rule of `Asynchronous.auto`.

    Args:
        states: the experts' own.
        experts: whose ways count, their mean.
        every: all starts.
        expert_epochs: how far on a start's target is.
    """
    ratios = []
    for start in every:
        ways = torch.zeros(2, dtype=torch.float64)
        for expert in experts:
            squares = squared_lengths(*states.at(expert, (start, start), (start + expert_epochs,) * 2))
            owners = torch.tensor(list(states.towers), device=squares.device)
            of_towers = squares.new_zeros(2).index_add_(0, owners, squares)
            ways += ranks.all_reduce(of_towers).sqrt().cpu()
        ratios.append(float(ways[0] / ways[1]))
    middle = median(ratios)
    pairs = list(zip(every, ratios, strict=True))
    return [start for start, ratio in pairs if ratio >= middle], [start for start, ratio in pairs if ratio <= middle]
