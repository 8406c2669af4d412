"""A backbone for students whose inputs are features that another backbone has computed."""

from torch import Tensor, nn


class FeatureBackbone(nn.Module):
    """A backbone whose inputs already are features (B, F), which it returns.

    Attributes:
        num_features: F; timm's name for it.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, F)."""
        return features
