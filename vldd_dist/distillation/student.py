"""The student: a dual encoder whose trainable parameters come from outside, as the unroll wants it."""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.distillation.unroll import Params
from vldd_dist.models.attention import set_unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import TOWERS, ParameterView, call


class BatchLayout:
    """Which tensor of an inner step's batch is which: model inputs (b, ...), texts (b, D), the loss's row tensors (b, ...), and
    after them its shared tensors.

    Attributes:
        rows, shared: names of the loss's tensors, in this order.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.rows, self.shared = list(loss.learned_rows(range(1))), list(loss.learned_shared())

    def loss_of(self, features: tuple[Tensor, Tensor], learned: Sequence[Tensor], model: DualEncoder) -> Tensor:
        """The loss of all rows of a batch.

        Args:
            features: (B, d) each, of all ranks' rows.
            learned: of a batch what follows the texts; this rank's rows of row tensors.
            model: gathers rows.
        """
        rows = [model.gather_rows(tensor) for tensor in learned[: len(self.rows)]]
        return self.loss(
            *features,
            dict(zip(self.rows, rows, strict=True)),
            dict(zip(self.shared, learned[len(self.rows) :], strict=True)),
        )


class Student:
    """Implements `unroll.InnerProblem` for a dual encoder.

    Args:
        model: supplies everything that does not move; its own trainable parameters are not used.
        dropout: train with dropout, the masks of an inner step replayed by the unroll from `seed` and the step.
        fused_attention: let attention use kernels without a second derivative (finite differences need none).
    """

    def __init__(self, model: DualEncoder, loss: Loss, *, dropout: bool, fused_attention: bool) -> None:
        self.model, self.layout = model, BatchLayout(loss)
        self.view = ParameterView(model)
        self.towers: Sequence[int] = [TOWERS.index(tower) for tower in self.view.towers]
        # Drawn anew for each outer step.
        self.seed = 0
        model.train(dropout)
        if not fused_attention:
            set_unfused_attention(model)

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        """The loss of a batch, laid out as `BatchLayout` says, at parameters theta: a scalar."""
        inputs, texts, *learned = batch
        return self.layout.loss_of(call(self.model, self.view, theta, inputs, texts), learned, self.model)
