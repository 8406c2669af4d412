"""The student: a dual encoder whose trainable parameters come from outside, as the unroll wants it."""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import contrastive_loss
from vldd_dist.models.parameters import ParameterView, call

Params = tuple[Tensor, ...]


class Student:
    """Implements `unroll.protocol.InnerProblem` for a dual encoder.

    Args:
        model: supplies everything that does not move; its own trainable parameters are not used.
        temperature: of the contrastive loss.
        dropout: train with dropout, the masks of an inner step replayed by the unroll from `seed` and the step.
        seed: of the dropout masks, drawn anew for each outer step.
    """

    def __init__(self, model: DualEncoder, temperature: float, dropout: bool) -> None:
        self.model, self.temperature = model, temperature
        self.view = ParameterView(model)
        self.towers: Sequence[int] = [("image", "text").index(tower) for tower in self.view.towers]
        self.seed = 0
        model.train(dropout)

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        """InfoNCE of the batch (images (B,3,H,W), texts (B,D)) at parameters theta: a scalar."""
        images, texts = batch
        return contrastive_loss(*call(self.model, self.view, theta, images, texts), self.temperature)
