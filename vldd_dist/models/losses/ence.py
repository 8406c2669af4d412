"""InfoNCE with soft targets in place of matching and non-matching texts."""

from torch import Tensor
from torch.nn import functional

from vldd_dist.models.losses.graded import SymmetricLoss


class ExtendedInfoNCE(SymmetricLoss):
    """eNCE (LoRS, Xu et al. 2406.03793): -sum_j s_ij log p_ij, where p is the softmax of a row's logits; the mean over rows and
    over both directions, images to texts and texts to images. If S is the identity, it is InfoNCE."""

    name: str = "ence"

    def of_rows(self, logits: Tensor, similarity: Tensor) -> Tensor:
        return -(similarity * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()
