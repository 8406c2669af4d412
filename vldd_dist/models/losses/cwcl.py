"""The continuously weighted contrastive loss."""

from torch import Tensor
from torch.nn import functional

from vldd_dist.models.losses.graded import SymmetricLoss


class CWCL(SymmetricLoss):
    """-sum_j s_ij log p_ij / sum_j s_ij, where p is the softmax of a row's logits; the mean over rows (Srinivasa et al.
    2305.14516). Here it is averaged over both directions, images to texts and texts to images. If S is the identity, it is
    InfoNCE. If a row of S sums to 0, the result is not finite.
    """

    name: str = "cwcl"

    def of_rows(self, logits: Tensor, similarity: Tensor) -> Tensor:
        weighted = (similarity * functional.log_softmax(logits, dim=1)).sum(dim=1)
        return -(weighted / similarity.sum(dim=1)).mean()
