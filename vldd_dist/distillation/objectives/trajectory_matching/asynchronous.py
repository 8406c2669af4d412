"""Separate start epochs for the two towers (AMD, Asynchronous Matching with Dynamic sampling, ICLR 2026): image and text towers
learn at different paces, so good start epochs for one need not be good for the other."""

from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import Self

import torch
from pydantic import Field, model_validator

from vldd_dist.config.base import Distinct, NonNegative, Section
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import squared_lengths
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs, States
from vldd_dist.distillation.unroll import Tensors
from vldd_dist.sharding.ranks import Ranks


class Asynchronous(Section):
    """The image and the text tower start at independently drawn epochs. Each should reach the expert's state `expert_epochs`
    after its own start."""

    image: Distinct[NonNegative] | None = Field(None, description="Start epochs of the image tower; null: all starts.")
    text: Distinct[NonNegative] | None = Field(None, description="Start epochs of the text tower; null: all starts.")
    auto: bool = Field(
        False,
        description=(
            "Choose the start epochs of each tower by how far the experts move it. With r = the image tower's distance / the "
            "text tower's distance, the image tower gets the starts where r is at least its median, the text tower those where "
            "r is at most its median."
        ),
    )

    @model_validator(mode="after")
    def _auto_excludes_starts(self) -> Self:
        if self.auto and (self.image or self.text):
            raise ValueError("auto finds the starts of both towers: leave image and text out, or auto")
        return self

    def starts(self, all_starts: Sequence[int]) -> list[Epochs]:
        """The pairs of start epochs to draw from; `all_starts` are those of a tower for which none are given."""
        return list(product(self.image or all_starts, self.text or all_starts))


def starts_by_pace(
    states: States, experts: range, all_starts: Sequence[int], expert_epochs: int, ranks: Ranks
) -> tuple[list[int], list[int]]:
    """The start epochs of the image and of the text tower by the rule of `Asynchronous.auto`.

    Args:
        states: the experts' states as they were trained.
        experts: indices of the experts over which the distances are averaged.
        all_starts: the start epochs to choose from.
        expert_epochs: epochs from a start to its target.
    """
    # (starts, 2): summed over the experts, the distance from start to target of the image and of the text tower.
    distances = torch.zeros(len(all_starts), 2, dtype=torch.float64)
    epochs = sorted({*all_starts, *(start + expert_epochs for start in all_starts)})
    reads = [(expert, epoch) for expert in experts for epoch in epochs]
    # This expert's states at starts whose target comes later, so that each snapshot is read once.
    begun: dict[int, Tensors] = {}
    for position, (expert, epoch) in enumerate(reads):
        for ahead, later in reads[position : position + len(epochs)]:
            states.prefetch(ahead, (later, later))
        (state,) = states.at(expert, (epoch, epoch))
        if (start := epoch - expert_epochs) in begun:
            squares = squared_lengths(begun.pop(start), state)
            tower_indices = torch.tensor(list(states.towers), device=squares.device)
            tower_squares = squares.new_zeros(2).index_add_(0, tower_indices, squares)
            distances[all_starts.index(start)] += ranks.sum_in_place(tower_squares).sqrt().cpu()
        if epoch in all_starts:
            begun[epoch] = state
    ratios = (distances[:, 0] / distances[:, 1]).tolist()
    middle = median(ratios)
    image_starts = [start for start, ratio in zip(all_starts, ratios, strict=True) if ratio >= middle]
    text_starts = [start for start, ratio in zip(all_starts, ratios, strict=True) if ratio <= middle]
    return image_starts, text_starts
