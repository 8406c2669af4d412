"""The outer optimiser: an outer step updates only the pairs that take part in it.

A dense optimiser would move every pair by its momentum at every outer step, at a cost that grows with M. Here each pair has its
own moments and its own count of steps. If every step uses every pair, the two are the same (docs/decisions.md).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.distillation.pairs import SyntheticPairs

BETAS, EPSILON = (0.5, 0.9), 1e-8


class OuterOptimiser:
    """Moves the pairs along their outer gradient by SGD, as published, or by Adam with betas (0.5, 0.9).

    Args:
        rates: the outer learning rate of each row tensor and each shared tensor that is learned, by name.
    """

    def __init__(self, pairs: SyntheticPairs, rates: Mapping[str, float], settings: DistillationSettings) -> None:
        self.pairs = pairs
        learned = pairs.learned(pairs.rows | pairs.shared)
        self._optimisers = {name: Rowwise(values, rates[name], settings) for name, values in learned.items()}

    def step(self, rows: Tensor, row_gradients: Mapping[str, Tensor], shared_gradients: Mapping[str, Tensor]) -> None:
        """Take one outer step. Tensors that are fixed or have no gradient do not move.

        Args:
            rows: (K,) int64, distinct indices of the pairs that took part.
            row_gradients: the gradients (K, ...) of their row tensors, by name.
            shared_gradients: the gradients of shared tensors, by name.
        """
        for name, gradient in row_gradients.items():
            if name not in self.pairs.fixed:
                self._optimisers[name].step(rows, gradient)
        for name, gradient in shared_gradients.items():
            if name not in self.pairs.fixed:
                self._optimisers[name].step(torch.arange(len(gradient)), gradient)

    def rows_state(self) -> dict[str, Tensor]:
        """The optimiser state of the row tensors as `NAME/KEY`, with one row for each pair."""
        return self._state(self.pairs.learned(self.pairs.rows))

    def shared_state(self) -> dict[str, Tensor]:
        """The optimiser state of the shared tensors as `NAME/KEY`."""
        return self._state(self.pairs.learned(self.pairs.shared))

    def _state(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {f"{name}/{key}": value for name in names for key, value in self._optimisers[name].state.items()}


class Rowwise:
    """SGD or Adam (Kingma and Ba 1412.6980) on the rows of one tensor, in place.

    Attributes:
        state: tensors with one row for each row of the values; `steps` (n,) int64 counts the steps that a row took part in.
    """

    def __init__(self, values: Tensor, lr: float, settings: DistillationSettings) -> None:
        self.values, self.lr, self.momentum = values, lr, settings.momentum
        self.adam = settings.optimiser == "adam"
        self.state = {name: torch.zeros_like(values) for name in settings.moments()}
        self.state["steps"] = torch.zeros(len(values), dtype=torch.int64, device=values.device)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Move rows (K,) along their gradient (K, ...)."""
        rows = rows.to(self.values.device)
        self.state["steps"][rows] += 1
        direction = self._adam(rows, gradient) if self.adam else self._sgd(rows, gradient)
        self.values.index_add_(0, rows, direction, alpha=-self.lr)

    def _sgd(self, rows: Tensor, gradient: Tensor) -> Tensor:
        if not self.momentum:
            return gradient
        return self._store("momentum", rows, self.momentum * self.state["momentum"][rows] + gradient)

    def _adam(self, rows: Tensor, gradient: Tensor) -> Tensor:
        first, second = BETAS
        mean = self._store("mean", rows, torch.lerp(self.state["mean"][rows], gradient, 1 - first))
        square = self._store("square", rows, torch.lerp(self.state["square"][rows], gradient.square(), 1 - second))
        steps = self.state["steps"][rows].reshape(-1, *[1] * (gradient.ndim - 1))
        return mean / (1 - first**steps) / ((square / (1 - second**steps)).sqrt() + EPSILON)

    def _store(self, name: str, rows: Tensor, value: Tensor) -> Tensor:
        """Write the rows of a state tensor; returns the value."""
        self.state[name][rows] = value
        return value
