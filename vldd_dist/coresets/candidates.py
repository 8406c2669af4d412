"""What coresets choose from."""

from dataclasses import dataclass

from torch import Tensor

from vldd_dist.data.medoids import joint_features


@dataclass(frozen=True)
class Candidates:
    """N training pairs as a trained expert sees them.

    Attributes:
        images: N.
        image, text: (N, d) joint features of each image and one of its captions.
        events: (N,) int64 forgetting events.
        ever_learned: (N,) bool.
        caption: (N,) int64, which of its captions the text feature is of.
    """

    images: int
    image: Tensor | None = None
    text: Tensor | None = None
    events: Tensor | None = None
    ever_learned: Tensor | None = None
    caption: Tensor | None = None

    def joint(self) -> Tensor:
        """(N, 2d) both features, each of norm one, side by side."""
        assert self.image is not None
        assert self.text is not None
        return joint_features(self.image, self.text)
