"""The student: a dual encoder that gets its trainable parameters as arguments, which is what the unroll needs."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from vldd_dist.distillation.student.blending import Blend, Mix
from vldd_dist.distillation.unroll import Tensors
from vldd_dist.models.attention import unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import ParameterView, call

# Position in the batch -> tensor, for those tensors of an inner step's batch that are not learned. The unroll does not see
# them.
Fixed = Mapping[int, Tensor]


def without_fixed(batch: Tensors, positions: frozenset[int]) -> tuple[list[Tensor], Fixed]:
    """Separate a batch into its learned tensors and the fixed ones, which are at these positions."""
    fixed = {position: batch[position] for position in positions}
    return [tensor for position, tensor in enumerate(batch) if position not in positions], fixed


@dataclass(frozen=True)
class StepInputs:
    """What the student's steps take beside its parameters and the learned tensors; another for each outer step.

    Attributes:
        seed: seed of the dropout masks.
        fixed: for each inner step the tensors of its batch that are not learned; empty if all are learned.
        blend: mixing of the features that enter the heads; None: they are not mixed.
    """

    seed: int = 0
    fixed: Sequence[Fixed] = ()
    blend: Blend | None = None

    def batch(self, learned: Tensors, step: int) -> list[Tensor]:
        """The batch of an inner step: the fixed tensors are put back among the learned ones. The shared tensors, which follow
        the learned ones, stay at the end."""
        fixed = self.fixed[step] if self.fixed else {}
        rest = iter(learned)
        return [fixed[position] if position in fixed else next(rest) for position in range(len(learned) + len(fixed))]

    def mix(self, step: int) -> Mix | None:
        """The mixing function of an inner step; None if features are not mixed."""
        return self.blend.at(step) if self.blend else None


class BatchLayout:
    """The order of the tensors of an inner step: model inputs (b, ...), texts (b, D), the loss's row tensors (b, ...), then its
    shared tensors.

    Attributes:
        rows, shared: names of the loss's row tensors and shared tensors, in this order.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.rows, self.shared = list(loss.learned_rows(range(1), 1)), list(loss.learned_shared())

    def loss_of(self, features: tuple[Tensor, Tensor], learned: Sequence[Tensor], model: DualEncoder) -> Tensor:
        """The loss of all rows of a batch.

        Args:
            features: joint features of images and texts, (B, d) each, for the rows of all ranks.
            learned: the tensors that follow the texts; of row tensors this rank's rows.
            model: gathers rows.
        """
        rows = [model.gather_rows(tensor) for tensor in learned[: len(self.rows)]]
        return self.loss(
            *features,
            dict(zip(self.rows, rows, strict=True)),
            dict(zip(self.shared, learned[len(self.rows) :], strict=True)),
        )


class Student:
    """Implements `unroll.StudentLoss` for a dual encoder.

    Args:
        model: provides the modules and the frozen tensors; its own trainable parameters are not used.
        dropout: train with dropout. The unroll draws the masks of an inner step from `seed` and the step, the same each time.
        fused_attention: allow attention kernels that have no second derivative (finite differences need none). If false, they
            are switched off in the student's steps only; other passes of the model, which need no second derivative, keep them.

    Attributes:
        step_inputs: what its steps take; `with_inputs` makes the student of an outer step.
    """

    def __init__(self, model: DualEncoder, loss: Loss, *, dropout: bool, fused_attention: bool) -> None:
        self.model, self.layout, self.step_inputs = model, BatchLayout(loss), StepInputs()
        self.fused_attention = fused_attention
        self.view = ParameterView(model)
        self.towers: Sequence[int] = self.view.towers
        model.train(dropout)

    @property
    def seed(self) -> int:
        return self.step_inputs.seed

    def with_inputs(self, step_inputs: StepInputs) -> Self:
        """The same student, with the same model, whose steps take these inputs."""
        student = copy.copy(self)
        student.step_inputs = step_inputs
        return student

    def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
        """The scalar loss at parameters theta of a batch that is laid out like `BatchLayout`, but without the fixed tensors."""
        inputs, texts, *learned = self.step_inputs.batch(batch, step)
        with nullcontext() if self.fused_attention else unfused_attention(self.model):
            features = call(self.model, self.view, theta, inputs, texts, self.step_inputs.mix(step))
        return self.layout.loss_of(features, learned, self.model)
