"""Counting what an expert learns and forgets, for the forgetting coreset."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ForgettingCounts:
    """Forgetting events of each training entry (Toneva et al. 1812.05159), adapted to retrieval: an entry is learned while its
    image ranks its caption first within its batch, and forgotten when it was learned at its last visit and is not any more.

    An epoch visits an entry once, so that no batch holds one twice. Where each caption is an entry, each has counts of its own:
    that an image finds one caption and not another is nothing forgotten. `of_images` sums them up for the coreset, which
    chooses images.

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

    def visit(self, entries: Tensor, learned: Tensor) -> None:
        """Count a batch: `entries` (B,) int64, distinct, and whether each is `learned` (B,) bool now."""
        self.events[entries] += self.learned[entries] & ~learned
        self.learned[entries] = learned
        self.ever[entries] |= learned

    def of_images(self, captions: list[int]) -> "ForgettingCounts":
        """Of images with so many entries each, in order: the events of all of them; learned where every one is, ever learned
        where any was."""
        image, counts = torch.arange(len(captions)).repeat_interleave(torch.tensor(captions)), len(captions)
        unlearned = torch.zeros(counts, dtype=torch.int64).index_add_(0, image, (~self.learned).long())
        ever = torch.zeros(counts, dtype=torch.int64).index_add_(0, image, self.ever.long())
        events = torch.zeros(counts, dtype=torch.int64).index_add_(0, image, self.events)
        return ForgettingCounts(events, unlearned == 0, ever > 0)

    def as_tensors(self) -> dict[str, Tensor]:
        return {"events": self.events, "learned": self.learned, "ever": self.ever}
