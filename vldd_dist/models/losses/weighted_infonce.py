"""InfoNCE with a target distribution computed from soft targets."""

from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from vldd_dist.models.losses.graded import SymmetricLoss


class WeightedInfoNCE(SymmetricLoss):
    """The Kullback-Leibler divergence KL(q | p) for each image over the texts, and for each text over the images: p is the
    softmax of a row's logits, q that of its similarities divided by a temperature (LoRS, Xu et al. 2406.03793, whose code uses
    0.1).

    The divergences are averaged over the rows. The published code also averages over the elements of a row, so its loss is
    smaller by a factor of the batch size.
    """

    name: str = "weighted_infonce"
    target_temperature: PositiveFloat = Field(
        0.1, description="The target distribution of a row is the softmax of its similarities divided by this."
    )

    def of_rows(self, logits: Tensor, similarity: Tensor) -> Tensor:
        log_p = functional.log_softmax(logits, dim=1)
        log_q = functional.log_softmax(similarity / self.target_temperature, dim=1)
        return (log_q.exp() * (log_q - log_p)).sum(dim=1).mean()
