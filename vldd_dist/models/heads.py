"""Projection heads from a tower's features to the joint space."""

from torch import Tensor, nn

from vldd_dist.config.sections.model import HeadSettings


class ProjectionHead(nn.Module):
    """Linear(D, d), GELU, Linear(d, d), dropout, residual, LayerNorm: the text head of Wu et al. 2308.07545."""

    def __init__(self, in_dim: int, joint_dim: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(in_dim, joint_dim)
        self.activation = nn.GELU()
        self.mixing = nn.Linear(joint_dim, joint_dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(joint_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, d)."""
        projected = self.projection(features)
        return self.norm(projected + self.dropout(self.mixing(self.activation(projected))))


def build_head(settings: HeadSettings, in_dim: int, joint_dim: int) -> nn.Module:
    """The head of the given kind; `none` is the identity."""
    if settings.kind == "linear":
        return nn.Linear(in_dim, joint_dim)
    if settings.kind == "projection":
        return ProjectionHead(in_dim, joint_dim, settings.dropout)
    return nn.Identity()
