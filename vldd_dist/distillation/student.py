"""The student: a dual encoder whose trainable parameters come from outside, as the unroll wants it."""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.distillation.unroll import Params
from vldd_dist.models.attention import set_unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import contrastive_loss
from vldd_dist.models.parameters import TOWERS, ParameterView, call


class Student:
    """Implements `unroll.InnerProblem` for a dual encoder.

    Args:
        model: supplies everything that does not move; its own trainable parameters are not used.
        temperature: of the contrastive loss.
        dropout: train with dropout, the masks of an inner step replayed by the unroll from `seed` and the step.
        fused_attention: let attention use kernels without a second derivative (finite differences need none).
    """

    def __init__(self, model: DualEncoder, temperature: float, *, dropout: bool, fused_attention: bool) -> None:
        self.model, self.temperature = model, temperature
        self.view = ParameterView(model)
        self.towers: Sequence[int] = [TOWERS.index(tower) for tower in self.view.towers]
        # Drawn anew by the outer loop for each of its steps.
        self.seed = 0
        model.train(dropout)
        if not fused_attention:
            set_unfused_attention(model)

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        """InfoNCE of the batch (model inputs (B, ...), texts (B, D)[, similarity (B, B)]) at parameters theta: a scalar."""
        inputs, texts, *similarity = batch
        features = call(self.model, self.view, theta, inputs, texts)
        return contrastive_loss(*features, self.temperature, *similarity)
