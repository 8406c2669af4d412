"""The student: a dual encoder whose trainable parameters come from outside, as the unroll wants it."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from vldd_dist.distillation.student.blending import Blend
from vldd_dist.distillation.unroll import Params
from vldd_dist.models.attention import set_unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import TOWERS, ParameterView, call

# What of an inner step's batch is not learned, and so is none of the unroll's tensors: its place in the batch -> the tensor.
Fixed = Mapping[int, Tensor]


def without_fixed(batch: Params, places: frozenset[int]) -> tuple[list[Tensor], Fixed]:
    """A batch's learned tensors, and those in these places."""
    fixed = {place: batch[place] for place in places}
    return [tensor for place, tensor in enumerate(batch) if place not in places], fixed


def with_fixed(learned: Params, fixed: Fixed) -> list[Tensor]:
    """The batch again, followed by whatever followed its learned tensors."""
    rest = iter(learned)
    return [fixed[place] if place in fixed else next(rest) for place in range(len(learned) + len(fixed))]


class BatchLayout:
    """Which tensor of an inner step's batch is which: model inputs (b, ...), texts (b, D), the loss's row tensors (b, ...), and
    after them its shared tensors.

    Attributes:
        rows, shared: names of the loss's tensors, in this order.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.rows, self.shared = list(loss.learned_rows(range(1), 1)), list(loss.learned_shared())

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

    Attributes:
        fixed: of each inner step's batch what is not learned; nothing where empty.
        blend: of the features that enter the heads; none: they are not mixed.
    """

    def __init__(self, model: DualEncoder, loss: Loss, *, dropout: bool, fused_attention: bool) -> None:
        self.model, self.layout = model, BatchLayout(loss)
        self.view = ParameterView(model)
        self.towers: Sequence[int] = [TOWERS.index(tower) for tower in self.view.towers]
        # Drawn anew for each outer step.
        self.seed = 0
        self.fixed: Sequence[Fixed] = ()
        self.blend: Blend | None = None
        model.train(dropout)
        if not fused_attention:
            set_unfused_attention(model)

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        """The loss of a batch, laid out as `BatchLayout` says but without what is fixed, at parameters theta: a scalar."""
        inputs, texts, *learned = with_fixed(batch, self.fixed[step] if self.fixed else {})
        mix = self.blend.at(step) if self.blend else None
        features = call(self.model, self.view, theta, inputs, texts, mix)
        return self.layout.loss_of(features, learned, self.model)
