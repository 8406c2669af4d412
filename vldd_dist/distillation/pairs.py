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
    """

    rows: dict[str, Tensor]
    shared: dict[str, Tensor]
    start: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows["images"])

    @property
    def images(self) -> Tensor:
        return self.rows["images"]

    @property
    def texts(self) -> Tensor:
        return self.rows["texts"]

    def copy_(self, other: "SyntheticPairs") -> None:
        """Take the other's values."""
        for own, others in ((self.rows, other.rows), (self.shared, other.shared)):
            for name, tensor in own.items():
                tensor.copy_(others[name])

    def clone(self) -> "SyntheticPairs":
        return SyntheticPairs(_copies(self.rows), _copies(self.shared), self.start)


def _copies(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named.items()}
