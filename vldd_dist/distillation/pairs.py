"""The synthetic pairs: what distillation learns."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class SyntheticPairs:
    """The named tensors that are learned. With several ranks, each has its `Ranks.rows(M)` of the rows, and all have the same
    shared tensors.

    Attributes:
        rows: tensors with a row for each pair: `images` (M, 3, H, W) float32, normalised for the image tower; `texts` (M, D)
            float32, in the output space of the frozen text encoder; and those that the loss adds.
        shared: tensors (n, ...) that all pairs share: those that the objective adds (the logarithms of the inner learning
            rates) and those that the loss adds (the logarithm of a temperature).
        start: provenance of the initial pairs: image keys and captions if they were real pairs.
        fixed: names of the tensors that keep their initial values; they get no gradient.
    """

    rows: dict[str, Tensor]
    shared: dict[str, Tensor]
    start: dict[str, Any] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.rows["images"])

    @property
    def images(self) -> Tensor:
        return self.rows["images"]

    @property
    def texts(self) -> Tensor:
        return self.rows["texts"]

    def with_inputs(self, inputs: Tensor) -> "SyntheticPairs":
        """The same pairs with model inputs (M, ...) in place of the images."""
        return SyntheticPairs(self.rows | {"images": inputs}, self.shared, self.start, self.fixed)

    def copy_(self, other: "SyntheticPairs") -> None:
        """Copy the values of the learned tensors from other pairs."""
        for targets, sources in ((self.rows, other.rows), (self.shared, other.shared)):
            for name, tensor in self.learned(targets).items():
                tensor.copy_(sources[name])

    def learned(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of the given rows or shared tensors that are not fixed."""
        return {name: tensor for name, tensor in named.items() if name not in self.fixed}

    def clone(self) -> "SyntheticPairs":
        """A copy, which shares the fixed tensors."""
        rows, shared = (
            {name: tensor if name in self.fixed else tensor.detach().clone() for name, tensor in named.items()}
            for named in (self.rows, self.shared)
        )
        return SyntheticPairs(rows, shared, self.start, self.fixed)
