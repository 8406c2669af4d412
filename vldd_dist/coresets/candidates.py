"""The training pairs that a coreset is selected from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vldd_dist.data.medoids import concatenated_features


@dataclass(frozen=True)
class Candidates:
    """N training pairs. Only the fields that the method's `needs` names are set.

    Attributes:
        images: N.
        image, text: (N, d) joint features of each image and of one of its captions.
        events: (N,) int64, number of forgetting events.
        ever_learned: (N,) bool, whether the expert ever learned the pair.
        caption: (N,) int64, the number of the caption that `text` and `embedding` were computed from.
        embedding: (N, D), the text encoder's embedding of one caption of each image.
    """

    images: int
    image: Tensor | None = None
    text: Tensor | None = None
    events: Tensor | None = None
    ever_learned: Tensor | None = None
    caption: Tensor | None = None
    embedding: Tensor | None = None

    def joint(self) -> Tensor:
        """(N, 2d): image and text features, each of norm one, concatenated."""
        assert self.image is not None, "a coreset used features that its `needs` does not name"
        assert self.text is not None
        return concatenated_features(self.image, self.text)

    def caption_numbers(self, indices: Sequence[int]) -> list[int] | None:
        """For each of these images, the number of the caption by which it was selected; None if captions were not
        used."""
        return None if self.caption is None else self.caption[torch.tensor(indices)].tolist()
