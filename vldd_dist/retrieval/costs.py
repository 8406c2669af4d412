"""What recall costs, for a plan."""

from typing import Protocol


class EncodingCosts(Protocol):
    """Floating-point operations of a dual encoder's passes when recall is measured.

    Attributes:
        joint_dim: size of the joint space.
        encoding: one image, as the encoder gets it: through the image tower, or features through its head.
        text_encoding: one caption embedding through the text head.
    """

    joint_dim: int

    @property
    def encoding(self) -> float: ...

    @property
    def text_encoding(self) -> float: ...


def measuring_flops(costs: EncodingCosts, images: float, captions: float) -> float:
    """The operations of `measure` on a split: its images and captions through the encoders, and the scores of all images with
    all captions, which are computed in both directions."""
    scores = 2 * 2 * images * captions * costs.joint_dim
    return images * costs.encoding + captions * costs.text_encoding + scores
