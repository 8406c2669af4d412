"""The outer problem of a distillation: what the outer loop calls at each of its steps."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from vldd_dist.distillation.pairs import SyntheticPairs


class OuterGradient(NamedTuple):
    """The outer loss of one step and its gradient.

    Attributes:
        terms: the terms of the outer loss by name, the same on all ranks, and the same names at every step; the loss is their
            sum.
        rows: (K,) int64, distinct indices, among this rank's rows, of the pairs that took part.
        row_gradients: the gradients (K, ...) of the row tensors by name, those of the loss over all ranks.
        shared_gradients: the gradients of the shared tensors by name, the same on all ranks. Tensors in `SyntheticPairs.fixed`
            need no gradient; one that any other tensor lacks is refused.
    """

    terms: dict[str, float]
    rows: Tensor
    row_gradients: dict[str, Tensor]
    shared_gradients: dict[str, Tensor]


class OuterProblem(ABC):
    """An objective during a distillation, on one of its ranks. All ranks call each method together. Every random draw of a step
    derives from the seed and the step, so that a resumed distillation ends in the same bits."""

    def begin(self, pairs: SyntheticPairs) -> None:  # noqa: B027
        """Called before the first outer step of a distillation, but not when it resumes.

        Raises:
            ConfigError: the settings do not work with this student.
        """

    def awaited(self, step: int) -> Exception | None:
        """The reason why an outer step cannot be taken yet, or None. The outer loop stores a checkpoint, then raises it."""
        return None

    def prefetch(self, step: int) -> None:  # noqa: B027
        """Start to read, in the background, what an outer step will need."""

    @abstractmethod
    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        """The outer loss at these pairs and its gradient; `step` counts from 0.

        Raises:
            DivergenceError: no gradient can be computed from these pairs any more.
        """

    def state(self) -> dict[str, Any]:
        """The problem's state as JSON values, which each checkpoint holds."""
        return {}

    def facts(self) -> dict[str, Any]:
        """JSON values that the facts of the finished distillation hold; by default the state."""
        return self.state()

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `state` returned."""

    def figures(self) -> dict[str, Any]:
        """Fields of `events.Progress` to report beside the loss."""
        return {}
