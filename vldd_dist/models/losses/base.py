"""The interface of a loss, which experts, students and evaluation share."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from vldd_dist.config.base import Plugin

NONE: Mapping[str, Tensor] = MappingProxyType({})


class Learned(NamedTuple):
    """A tensor that distillation learns beside images and texts.

    Attributes:
        start: its initial values: for a row tensor one row for each pair, for a shared tensor (n, ...), n > 0.
        lr: its outer learning rate; 0 keeps the initial values. Always 0 for a tensor of integers.
    """

    start: Tensor
    lr: float


class Loss(Plugin):
    """A scalar loss of the features of a batch of pairs, which can be differentiated twice. Its fields are settings and do not
    change.

    It may own tensors that distillation learns: row tensors (a row for each pair, such as the diagonal of a similarity) and
    shared tensors (such as a temperature). The caller passes those that exist, by name. Real pairs have none, and the loss then
    uses the initial values.

    A loss that divides similarities by a temperature has a field `temperature`. If it is learned, its logarithm is the shared
    tensor `log_temperature`.
    """

    @abstractmethod
    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        rows: Mapping[str, Tensor] = NONE,
        shared: Mapping[str, Tensor] = NONE,
    ) -> Tensor:
        """The loss of B pairs. Plans also call it with tensors of the meta device, which have no values: it must not read them
        (`.item()`, masks as indices), or plans do not know what its passes take. With several ranks it gets the pairs of all of
        them, each rank the same, and needs no collective operation.

        Args:
            image_features, text_features: (B, d), of any norm; row i of both is pair i.
            rows: this loss's row tensors for these pairs, (B, ...) each.
            shared: this loss's shared tensors. Those of the objective may be among them: `own_shared` leaves them out.

        Returns:
            A scalar.
        """

    def first_temperature(self) -> float | None:
        """The temperature before distillation learns it; None if the loss has none."""
        temperature: float | None = self.model_dump().get("temperature")
        return temperature

    def at_temperature(self, temperature: float) -> Self:
        """The same loss at another temperature.

        Raises:
            ValueError: the loss has no temperature, or learns it. The message continues a sentence that begins with its name.
        """
        if "temperature" not in type(self).model_fields:
            raise ValueError("has no temperature")
        if "log_temperature" in self.learned_shared():
            raise ValueError("learns its temperature")
        return self.model_copy(update={"temperature": temperature})

    def of_real_pairs(self) -> Self:
        """The same loss without the settings of learned tensors, for units that only use real pairs. So experts do not depend
        on these settings."""
        return self

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        """The initial row tensors of this loss, for the pairs with these numbers out of `total`. The row of a pair depends only
        on its number and on the total. Without numbers the tensors have no rows, but the same shapes and types otherwise."""
        return {}

    def joined_rows(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The row tensors of several sets of pairs as those of one set, whose batches never hold pairs of two of the sets."""
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def check_rows(self, rows: Mapping[str, Tensor], total: int) -> None:
        """Check the row tensors of a set of M = `total` pairs, which may come from anyone.

        Raises:
            ValueError: a row tensor that this loss owns is missing, or has another shape or type.
        """
        # Without a row, because settings made by others could ask for more memory than there is.
        for name, (start, _) in self.learned_rows(range(0), total).items():
            _check_like(name, rows.get(name), start, (total, *start.shape[1:]))

    def check_shared(self, shared: Mapping[str, Tensor]) -> None:
        """Check the shared tensors of a set, which may come from anyone.

        Raises:
            ValueError: a shared tensor that this loss owns is missing, or has another shape or type.
        """
        for name, (start, _) in self.learned_shared().items():
            _check_like(name, shared.get(name), start, tuple(start.shape))

    def learned_shared(self) -> dict[str, Learned]:
        """The initial shared tensors of this loss."""
        return {}

    def own_shared(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of a set's shared tensors that this loss owns. Others are of the objective, under any name."""
        return {name: shared[name] for name in self.learned_shared() if name in shared}

    def learned_names(self) -> list[str]:
        """The names of all tensors of this loss that distillation learns, of the row tensors first."""
        return [*self.learned_rows(range(1), 1), *self.learned_shared()]

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        """The values of its shared tensors, for a distilled set's card."""
        return {}

    def similarity_of(self, rows: Mapping[str, Tensor]) -> Tensor | None:
        """The learned similarity (M, M) of all images (rows) with all texts, for display; None if the loss learns none."""
        return None


def row_bytes(rows: Mapping[str, Learned], *, floating_only: bool = False) -> dict[str, int]:
    """Bytes of one row of each row tensor of `Loss.learned_rows`, which may have been asked for no row.

    Args:
        floating_only: leave out tensors of integers.
    """
    starts = {name: start for name, (start, _) in rows.items() if start.is_floating_point() or not floating_only}
    return {name: math.prod(start.shape[1:]) * start.itemsize for name, start in starts.items()}


def _check_like(name: str, given: Tensor | None, start: Tensor, shape: tuple[int, ...]) -> None:
    if given is None or tuple(given.shape) != shape or given.dtype != start.dtype:
        kind = str(start.dtype).removeprefix("torch.")
        raise ValueError(f"{name!r} must be {shape} {kind}, as the set's loss has learned it")
