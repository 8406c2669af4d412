"""Counts how often an expert learns and forgets each training pair, for the forgetting coreset."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ForgettingCounts:
    """Forgetting events of each training entry (Toneva et al. 1812.05159), adapted to retrieval. An entry is an image with one
    caption. It is learned if its image ranks its caption first within the batch. It is forgotten if it was learned at its last
    visit and is not learned now.

    An epoch visits each entry once, so no batch contains one twice. If every caption makes an entry of its own, each has its
    own counts, because an image that finds one caption but not another has forgotten nothing. `of_images` sums them up for the
    coreset, which selects images.

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
        """Count a batch: `entries` (B,) int64, distinct indices, and `learned` (B,) bool, whether each is learned now."""
        self.events[entries] += self.learned[entries] & ~learned
        self.learned[entries] = learned
        self.ever[entries] |= learned

    def of_images(self, captions: list[int]) -> "ForgettingCounts":
        """Counts by image, from counts by caption: the sum of the events; learned if all captions are, ever learned if any was.

        Args:
            captions: for each image the number of its captions, which are consecutive entries.
        """
        images = len(captions)
        # (N,): the image of each entry.
        image = torch.arange(images).repeat_interleave(torch.tensor(captions))
        unlearned = torch.zeros(images, dtype=torch.int64).index_add_(0, image, (~self.learned).long())
        ever = torch.zeros(images, dtype=torch.int64).index_add_(0, image, self.ever.long())
        events = torch.zeros(images, dtype=torch.int64).index_add_(0, image, self.events)
        return ForgettingCounts(events, unlearned == 0, ever > 0)

    def as_tensors(self) -> dict[str, Tensor]:
        return {"events": self.events, "learned": self.learned, "ever": self.ever}
