"""InfoNCE towards a distribution made of a similarity."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vldd_dist.config.base import Rate
from vldd_dist.models.losses.graded import GradedLoss


class WeightedInfoNCE(GradedLoss):
    """The Kullback-Leibler divergence KL(q | p) of each image's texts and of each text's images: p is the softmax of a row's
    logits, q that of its similarities over a temperature (LoRS, Xu et al. 2406.03793, whose code has 0.1).

    The rows' divergences are averaged; the published code averages over their elements as well, which makes the loss smaller by
    the size of the batch.
    """

    name: str = "weighted_infonce"
    target_temperature: Rate = Field(
        0.1, description="A row of S becomes a distribution by a softmax of its similarities over this."
    )

    def of_similarity(self, logits: Tensor, similarity: Tensor) -> Tensor:
        return (self._of_rows(logits, similarity) + self._of_rows(logits.T, similarity.T)) / 2

    def _of_rows(self, logits: Tensor, similarity: Tensor) -> Tensor:
        found, wanted = (functional.log_softmax(rows, dim=1) for rows in (logits, similarity / self.target_temperature))
        return (wanted.exp() * (wanted - found)).sum(dim=1).mean()
