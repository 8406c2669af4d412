"""Mean squared error against soft targets."""

from torch import Tensor

from vldd_dist.models.losses.graded import GradedLoss


class MeanSquaredError(GradedLoss):
    """The mean of (sigmoid(logit_ij) - s_ij)^2 over all images i and texts j of a batch (LoRS, Xu et al. 2406.03793)."""

    name: str = "mse"

    def of_similarity(self, logits: Tensor, similarity: Tensor) -> Tensor:
        return (logits.sigmoid() - similarity).square().mean()
