"""Shortcut trajectories (PTM-ST, Guo et al. 2603.25388): the straight line between two states of an expert, followed at the
pace of the expert."""

from collections.abc import Iterable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.config.base import NonNegative, Positive, Section
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs, States
from vldd_dist.distillation.unroll import Tensors
from vldd_dist.sharding.ranks import Ranks


class Shortcut(Section):
    """The expert's state theta(t) is replaced by (1 - beta(t)) theta(a) + beta(t) theta(b), tensor by tensor. beta(t) is the
    length of the expert's path from epoch a to epoch t, divided by that from a to b, where the path has one point an epoch."""

    first_epoch: NonNegative | None = Field(None, description="Epoch a, where the line starts; null: the first start.")
    last_epoch: Positive | None = Field(None, description="Epoch b, where the line ends; null: the last target.")

    def epochs(self, first: int, last: int) -> range:
        """The epochs from a to b.

        Args:
            first, last: the first start and the last target.
        """
        begin = first if self.first_epoch is None else self.first_epoch
        return range(begin, (last if self.last_epoch is None else self.last_epoch) + 1)


class Shortcuts:
    """Implements `States` by points on the line.

    Args:
        states: the experts' states as they were trained.
        epochs: the epochs from a to b.

    Attributes:
        betas: expert -> beta as nested lists (epochs, tensors), of the experts whose paths were read.
    """

    def __init__(self, states: States, epochs: range, ranks: Ranks) -> None:
        self.states, self.epochs, self.ranks, self.towers = states, epochs, ranks, states.towers
        self.betas: dict[int, list[list[float]]] = {}

    def at(self, expert: int, *moments: Epochs) -> list[Tensors]:
        if expert in self.betas:
            begin, end = self.states.at(expert, *self._ends())
        else:
            begin, end = self._follow_path(expert)
        return [self._interpolate(begin, end, self._betas_at(expert, epochs)) for epochs in moments]

    def prefetch(self, expert: int, *moments: Epochs) -> None:
        # The first time an expert is used, its whole path is read, to measure beta.
        is_measured = expert in self.betas
        self.states.prefetch(expert, *(self._ends() if is_measured else _moments(self.epochs)))

    def _ends(self) -> list[Epochs]:
        return _moments((self.epochs[0], self.epochs[-1]))

    def _betas_at(self, expert: int, epochs: Epochs) -> list[float]:
        """beta of each tensor at the epoch of its tower."""
        betas_of_towers = [self.betas[expert][self.epochs.index(epoch)] for epoch in epochs]
        return [betas_of_towers[tower][index] for index, tower in enumerate(self.towers)]

    @staticmethod
    def _interpolate(begin: Tensors, end: Tensors, betas: Sequence[float]) -> Tensors:
        return tuple(torch.lerp(a, b, beta) for a, b, beta in zip(begin, end, betas, strict=True))

    def _follow_path(self, expert: int) -> tuple[Tensors, Tensors]:
        """Read the expert's whole path, each snapshot once, and measure its betas. With several ranks, the squared lengths of
        its steps are summed over the ranks. Returns the ends of the path."""
        steps: list[Tensor] = []
        (begin,) = self.states.at(expert, (self.epochs[0],) * 2)
        end = begin
        for index, epoch in enumerate(self.epochs[1:], 1):
            # Those for which the memory had no room before.
            self.states.prefetch(expert, *_moments(self.epochs[index:]))
            (after,) = self.states.at(expert, (epoch, epoch))
            steps.append(squared_lengths(end, after))
            end = after
        lengths = self.ranks.sum_in_place(torch.stack(steps)).sqrt().cpu()
        path = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(dim=0)])
        # A tensor that does not move has a path of length 0. It is the same at both ends, so any beta is right.
        self.betas[expert] = (path / path[-1].where(path[-1] > 0, 1)).tolist()
        return begin, end


def _moments(epochs: Iterable[int]) -> list[Epochs]:
    """Both towers at each of these epochs."""
    return [(epoch, epoch) for epoch in epochs]


def squared_lengths(before: Tensors, after: Tensors) -> Tensor:
    """(tensors,) float64 squared distances, tensor by tensor; for shards only this rank's part of them."""
    squares = [(b - a).square().sum(dtype=torch.float64) for a, b in zip(before, after, strict=True)]
    return torch.stack(squares)
