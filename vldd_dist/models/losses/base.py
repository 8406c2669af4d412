"""What a loss is: one object for experts, students and evaluation."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from vldd_dist.config.base import Plugin

NONE: Mapping[str, Tensor] = MappingProxyType({})


class Learned(NamedTuple):
    """A tensor that distillation learns beside pictures and texts.

    Attributes:
        start: its first values; of a row tensor a row for each pair, of a shared tensor (n, ...), n > 0.
        lr: its outer learning rate; 0 keeps the start, of a tensor of integers always.
    """

    start: Tensor
    lr: float


class Loss(Plugin):
    """A scalar loss of the features of a batch of pairs, differentiable twice. Frozen: its fields are settings.

    It may own tensors that distillation learns: rows (one a pair, such as a similarity's diagonal) and shared tensors (such as
    a temperature). Whoever computes the loss passes what there is of them by name; of real pairs there are none, and the loss
    is then that of its start.

    A loss that divides similarities by a temperature has it as its field `temperature`; where that is learned, its logarithm is
    the shared tensor `log_temperature`.
    """

    @abstractmethod
    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        rows: Mapping[str, Tensor] = NONE,
        shared: Mapping[str, Tensor] = NONE,
    ) -> Tensor:
        """The loss of B pairs.

        Args:
            image_features, text_features: (B, d), of any norm; row i of both is pair i.
            rows: this loss's row tensors at these pairs, (B, ...) each.
            shared: this loss's shared tensors; there may be others among them.

        Returns:
            A scalar.
        """

    def first_temperature(self) -> float | None:
        """What similarities are divided by, before distillation learns it; none: by nothing."""
        temperature: float | None = self.model_dump().get("temperature")
        return temperature

    def at_temperature(self, temperature: float) -> Self:
        """The same loss at another temperature.

        Raises:
            ValueError: it has none, or learns it; what is wrong, to be said after the loss's name.
        """
        if "temperature" not in type(self).model_fields:
            raise ValueError("has no temperature")
        if "log_temperature" in self.learned_shared():
            raise ValueError("learns its temperature")
        return self.model_copy(update={"temperature": temperature})

    def of_real_pairs(self) -> Self:
        """The same loss without what it would learn, for where there are real pairs alone: experts do not depend on that."""
        return self

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        """The row tensors this loss owns, at the start of these pairs of `total`: a pair's start depends on its number and on
        the total alone."""
        return {}

    def joined_rows(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The rows of several sets of pairs as those of one, in whose batches pairs of two sets never meet."""
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def check_rows(self, rows: Mapping[str, Tensor], total: int) -> None:
        """Of all M = `total` pairs of a set that may come from anyone.

        Raises:
            ValueError: a row tensor that this loss owns is not of the shape and type that it learns; what is wrong.
        """
        for name, (start, _) in self.learned_rows(range(1), total).items():
            _check_like(name, rows.get(name), start, (total, *start.shape[1:]))

    def check_shared(self, shared: Mapping[str, Tensor]) -> None:
        """The same of the shared tensors that this loss owns."""
        for name, (start, _) in self.learned_shared().items():
            _check_like(name, shared.get(name), start, tuple(start.shape))

    def learned_shared(self) -> dict[str, Learned]:
        """The shared tensors this loss owns."""
        return {}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        """What its shared tensors say, in numbers for a card."""
        return {}

    def similarity_of(self, rows: Mapping[str, Tensor]) -> Tensor | None:
        """For people: the similarity (M, M) of all images, the rows, with all texts that its row tensors say; none: there is
        none."""
        return None


def _check_like(name: str, given: Tensor | None, start: Tensor, shape: tuple[int, ...]) -> None:
    if given is None or tuple(given.shape) != shape or given.dtype != start.dtype:
        kind = str(start.dtype).removeprefix("torch.")
        raise ValueError(f"{name!r} must be {shape} {kind}, as the set's loss has learned it")
