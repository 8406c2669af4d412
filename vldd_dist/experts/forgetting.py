"""Counting what an expert learns and forgets, for the forgetting coreset."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ForgettingCounts:
    """Forgetting events of each training pair (Toneva et al. 1812.05159), for retrieval: a picture is learned while it
    ranks its own caption first within its batch, and forgotten when it was learned at the visit before and is not now.

    Attributes:
        events: (N,) int64.
        learned: (N,) bool, at the last visit.
        ever: (N,) bool, learned at any visit.
    """

    events: Tensor
    learned: Tensor
    ever: Tensor

    @classmethod
    def empty(cls, pictures: int) -> "ForgettingCounts":
        return cls(
            torch.zeros(pictures, dtype=torch.int64),
            torch.zeros(pictures, dtype=torch.bool),
            torch.zeros(pictures, dtype=torch.bool),
        )

    def visit(self, indices: Tensor, learned: Tensor) -> None:
        """indices (B,) int64 of pictures and whether each (B,) bool is learned now."""
        self.events[indices] += self.learned[indices] & ~learned
        self.learned[indices] = learned
        self.ever[indices] |= learned

    def as_tensors(self) -> dict[str, Tensor]:
        return {"events": self.events, "learned": self.learned, "ever": self.ever}
