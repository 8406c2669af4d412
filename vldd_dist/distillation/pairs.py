"""The synthetic pairs: what distillation learns."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class SyntheticPairs:
    """Named tensors. Of several ranks each has the rows `Ranks.rows(M)`, and all have the same shared tensors.

    Attributes:
        rows: a row for each pair: `images` (M, 3, H, W) float32, normalised as the image tower wants them; `texts` (M, D)
            float32, in the frozen text tower's output space; and what the loss adds.
        shared: what all pairs have in common, (n, ...) each: what the objective adds (the inner learning rates' logarithms) and
            the loss (a temperature's).
        start: where the pairs began: image keys and captions for a start from real pairs.
        fixed: names of the tensors that keep their start: never moved, and without a gradient.
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
        """The same with what stands for the images, (M, ...)."""
        return SyntheticPairs(self.rows | {"images": inputs}, self.shared, self.start, self.fixed)

    def copy_(self, other: "SyntheticPairs") -> None:
        """Take the other's values of what moves."""
        for own, others in ((self.rows, other.rows), (self.shared, other.shared)):
            for name, tensor in self.learned(own).items():
                tensor.copy_(others[name])

    def learned(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of its rows or shared tensors those that move."""
        return {name: tensor for name, tensor in named.items() if name not in self.fixed}

    def clone(self) -> "SyntheticPairs":
        """A copy; what is fixed is shared with it."""
        rows, shared = (
            {name: tensor if name in self.fixed else tensor.detach().clone() for name, tensor in named.items()}
            for named in (self.rows, self.shared)
        )
        return SyntheticPairs(rows, shared, self.start, self.fixed)
