"""Counting what an expert learns and forgets, for the forgetting coreset."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ForgettingCounts:
    """Forgetting events of each training pair (Toneva et al. 1812.05159), adapted to retrieval: an image is learned while it
    ranks its own caption first within its batch, and forgotten when it was learned at its last visit and is not any more.

    Attributes:
        events: (N,) int64.
        learned: (N,) bool, whether it was learned at its last visit.
        ever: (N,) bool, whether it was learned at any visit.
    """

    events: Tensor
    learned: Tensor
    ever: Tensor

    @classmethod
    def empty(cls, count: int) -> "ForgettingCounts":
        return cls(
            torch.zeros(count, dtype=torch.int64),
            torch.zeros(count, dtype=torch.bool),
            torch.zeros(count, dtype=torch.bool),
        )

    def visit(self, indices: Tensor, learned: Tensor) -> None:
        """Count a batch: `indices` (B,) int64 of images, and whether each is `learned` (B,) bool now."""
        self.events[indices] += self.learned[indices] & ~learned
        self.learned[indices] = learned
        self.ever[indices] |= learned

    def as_tensors(self) -> dict[str, Tensor]:
        return {"events": self.events, "learned": self.learned, "ever": self.ever}
