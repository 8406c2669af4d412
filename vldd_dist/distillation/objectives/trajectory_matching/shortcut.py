"""Shortcut trajectories (PTM-ST, Guo et al. 2603.25388): the straight way between two states of an expert, gone at the pace of
the expert."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.config.base import NonNegative, Positive, Section
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs, States
from vldd_dist.distillation.unroll import Params
from vldd_dist.sharding.ranks import Ranks


class Shortcut(Section):
    """In place of theta(t) the experts' states are (1 - beta(t)) theta(a) + beta(t) theta(b), tensor by tensor; beta(t) is the
    length of the expert's path from epoch a to t as a part of that from a to b, with a point an epoch."""

    first_epoch: NonNegative | None = Field(None, description="a; none: the first start.")
    last_epoch: Positive | None = Field(None, description="b; none: the last target.")

    def epochs(self, first: int, last: int) -> range:
        """From a to b.

        Args:
            first, last: the first start and the last target.
        """
        begin = first if self.first_epoch is None else self.first_epoch
        return range(begin, (last if self.last_epoch is None else self.last_epoch) + 1)


class Shortcuts:
    """Implements `States`.

    Args:
        states: the experts' own.
        epochs: from a to b.
    """

    def __init__(self, states: States, epochs: range, ranks: Ranks) -> None:
        self.states, self.epochs, self.ranks, self.towers = states, epochs, ranks, states.towers
        # By expert (epochs, tensors): beta, float64.
        self._parts: dict[int, list[list[float]]] = {}

    def at(self, expert: int, *moments: Epochs) -> list[Params]:
        if expert not in self._parts:
            self._parts[expert] = self._parts_of(expert)
        begin, end = self.states.at(expert, *self._ends())
        return [self._between(begin, end, self._betas(expert, epochs)) for epochs in moments]

    def prefetch(self, expert: int, *moments: Epochs) -> None:
        known = expert in self._parts
        self.states.prefetch(expert, *(self._ends() if known else [(epoch, epoch) for epoch in self.epochs]))

    def _ends(self) -> list[Epochs]:
        return [(epoch, epoch) for epoch in (self.epochs[0], self.epochs[-1])]

    def _betas(self, expert: int, epochs: Epochs) -> list[float]:
        rows = [self._parts[expert][self.epochs.index(epoch)] for epoch in epochs]
        return [rows[tower][number] for number, tower in enumerate(self.towers)]

    @staticmethod
    def _between(begin: Params, end: Params, betas: Sequence[float]) -> Params:
        return tuple(torch.lerp(a, b, beta) for a, b, beta in zip(begin, end, betas, strict=True))

    def _parts_of(self, expert: int) -> list[list[float]]:
        """From squared lengths of the steps between epochs, which are sums over the ranks. Reads the whole path."""
        steps: list[Tensor] = []
        (before,) = self.states.at(expert, (self.epochs[0],) * 2)
        for epoch in self.epochs[1:]:
            (after,) = self.states.at(expert, (epoch, epoch))
            steps.append(squared_lengths(before, after))
            before = after
        lengths = self.ranks.all_reduce(torch.stack(steps)).sqrt()
        passed = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(dim=0)])
        # A tensor that does not move is the same at both ends, whatever its beta.
        parts: list[list[float]] = (passed / passed[-1].where(passed[-1] > 0, 1)).tolist()
        return parts


def squared_lengths(before: Params, after: Params) -> Tensor:
    """(tensors,) float64, squared distances tensor by tensor; of a rank's shards their part."""
    squares = [(b - a).square().sum(dtype=torch.float64) for a, b in zip(before, after, strict=True)]
    return torch.stack(squares)
