"""Bilevel distillation: a student is trained on the synthetic pairs; these are updated to reduce its loss on real pairs.

The student is trained like the students of the evaluation: from freshly drawn heads and adapters (and backbone, if it is
trained from random weights), by SGD with momentum and weight decay; only the number of pairs in a step may differ. The
gradient goes back through a window of its training, which at every other outer step begins after a random number of steps
and otherwise at the first (truncated back-propagation from a random position, Feng et al. 2310.02379). Two measures against
overfitting to the training images: noise on the real features, and targets that are partly the experts' similarities
(figures: benchmarks/results/methods.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from vldd_dist.config.base import NonNegative, PairCount, Positive, Rate
from vldd_dist.distillation.batch_exchange import ImageInputs
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.inner_batches import draw_batches, inner_batch_size
from vldd_dist.distillation.objectives.costs import PassCosts
from vldd_dist.distillation.objectives.outer_problem import OuterGradient, OuterProblem
from vldd_dist.distillation.objectives.unrolled import UnrolledCosts, UnrolledObjective
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.real_data.step_batches import StepBatches
from vldd_dist.distillation.real_data.teacher import Teacher, soft_cross_entropy
from vldd_dist.distillation.student.unroller import StudentUnroll, Unroller
from vldd_dist.distillation.unroll import OuterLoss, Sgd, Unroll
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.backbone import refuse_backbone_dropout
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.plugins import GRADIENTS
from vldd_dist.seeding import derive_seed, numpy_generator
from vldd_dist.sharding.ranks import SOLO, Ranks

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class Bilevel(UnrolledObjective):
    """The outer loss is the loss on real pairs of a student that was trained on the synthetic ones."""

    needs: ClassVar[frozenset[str]] = frozenset({"real_batches", "experts"})
    name: str = "bilevel"
    inner_steps: Positive = Field(15, description="The student's last steps, through which the gradient goes.")
    skipped_steps: NonNegative = Field(
        40,
        description=(
            "At every other outer step the student first takes a random number of steps, 0 to this many, that are not "
            "differentiated, so that the pairs are useful late in its training as well as early."
        ),
    )
    student_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of the student's SGD.")
    student_weight_decay: NonNegativeFloat = Field(5e-4, description="Weight decay of the student's SGD.")
    inner_lr_image: Rate = Field(0.3, description="Inner learning rate of the image tower at the start.")
    inner_lr_text: Rate = Field(0.3, description="Inner learning rate of the text tower at the start.")
    lr_rates: NonNegativeFloat = Field(
        0.02, description="Outer learning rate of the logarithms of the inner learning rates; 0 keeps them fixed."
    )
    real_batch_size: PairCount = Field(512, description="Real pairs of the outer loss.")
    noise_scale: NonNegativeFloat = Field(
        0.5,
        description=(
            "Gaussian noise on the real pairs of the outer loss (images, or features of a frozen backbone; and texts), in "
            "units of the batch's standard deviation, averaged over the features. The student and the teachers get the same "
            "noisy pairs."
        ),
    )
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description=(
            "Weight, 0 to 1, of an outer loss whose targets are the experts' similarities of the real pairs (their mean cosine "
            "at the last epoch, divided by the temperature of model.loss); the rest is model.loss itself. 0: no experts needed."
        ),
    )

    @contextmanager
    def open(self, context: DistillationContext) -> Iterator[OuterProblem]:
        with self.opened_unroller(context, context.loss) as unroller:
            teacher = Teacher(unroller, context.open_experts(unroller.snapshot_slices)) if self.teacher_weight else None
            yield BilevelProblem(self, context, unroller, teacher)

    def conflicts(self, experiment: "Experiment") -> list[str]:
        conflicts = [*super().conflicts(experiment), *self._conflicts_with_evaluation(experiment)]
        key = "distill.objective"
        if not GRADIENTS.load(self.gradient).update_adjoint:
            conflicts.append(f"{key}.gradient: {self.gradient} is not accurate enough for {key}: bilevel: set exact")
        if self.teacher_weight and experiment.model.loss.first_temperature() is None:
            loss = experiment.model.loss.name
            conflicts.append(f"{key}.teacher_weight: model.loss: {loss} has no temperature: set {key}.teacher_weight to 0")
        return conflicts

    def _conflicts_with_evaluation(self, experiment: "Experiment") -> list[str]:
        """How this student's training differs from that of the evaluation's students, for which the pairs are meant."""
        conflicts = []
        for name in ("momentum", "weight_decay"):
            own, others = getattr(self, f"student_{name}"), getattr(experiment.evaluation, name)
            if own != others:
                conflicts.append(
                    f"distill.objective.student_{name} ({own:g}) differs from evaluation.{name} ({others:g}), with which the "
                    "pairs are evaluated: set both to the same value"
                )
        return conflicts

    def refuse_on_ranks(self, model: DualEncoder) -> None:
        # On the real pairs the student always runs with its dropout.
        refuse_backbone_dropout(model)

    def needed(self) -> frozenset[str]:
        return self.needs if self.teacher_weight else self.needs - {"experts"}

    def costs(self) -> "BilevelCosts":
        return BilevelCosts(self)


class BilevelCosts(UnrolledCosts[Bilevel]):
    """The costs of `Bilevel`."""

    def held_snapshots(self, experts: int) -> int:
        return experts if self.objective.teacher_weight else 0

    def teacher_flops(self, passes: PassCosts, experts: int) -> float:
        # Of a frozen backbone, all experts take the same features. A pass forward is a third of a pass there and back.
        one = passes.training / 3 if passes.freezes_backbone else passes.encoding
        return self.held_snapshots(experts) * self.real_rows() * one

    def real_rows(self) -> int:
        return self.objective.real_batch_size

    def longest_run(self) -> int:
        return self.objective.skipped_steps + self.objective.inner_steps

    def has_momentum(self) -> bool:
        return self.objective.student_momentum > 0

    def real_copies(self) -> int:
        return int(self.objective.noise_scale > 0)

    def plain_steps(self) -> float:
        return self.objective.skipped_steps / 4


class BilevelProblem(OuterProblem):
    """Each outer step trains a student from a fresh start, and differentiates its loss on real pairs.

    Args:
        unroller: uses the context's model.
        teacher: makes the soft targets of the outer loss; None if `settings.teacher_weight` is 0.
    """

    def __init__(self, settings: Bilevel, context: DistillationContext, unroller: Unroller, teacher: Teacher | None) -> None:
        self.settings, self.context, self.unroller, self.teacher = settings, context, unroller, teacher
        self.seed = context.derived_seed()
        self.real = StepBatches(context, unroller.frozen_backbone, settings.real_batch_size)
        self.shared_of_loss = list(context.loss.learned_shared())
        self.inputs = ImageInputs(unroller.frozen_backbone)
        # Reads the starting weights, so it must come before a teacher's pass or a step changes them.
        self.fresh_start = unroller.fresh_starts()

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        settings, context = self.settings, self.context
        rates = settings.inner_rates(pairs.shared, step)
        generator = numpy_generator(self.seed, "bilevel", step)
        skip = int(generator.integers(settings.skipped_steps + 1)) if step % 2 else 0
        size = inner_batch_size(context.settings.batch_size, context.total)
        batches = draw_batches(generator, context.total, size, skip + settings.inner_steps)
        exchange = self.inputs.exchange(context, pairs, batches)
        unroll = Unroll(
            self.fresh_start(derive_seed(self.seed, "heads", step)),
            rates,
            exchange.batches,
            self._outer(step),
            self.unroller.towers,
            [pairs.shared[name] for name in self.shared_of_loss],
            Sgd(settings.student_momentum, settings.student_weight_decay, skip),
        )
        student_unroll = StudentUnroll(unroll, derive_seed(self.seed, "dropout", step), exchange.fixed)
        result = self.unroller.gradient(student_unroll)
        rows, row_gradients = exchange.gradients(result.batch_gradients)
        shared_gradients = settings.shared_gradients(result, rates, self.shared_of_loss)
        return OuterGradient({"real_pairs": result.terms.item()}, rows, row_gradients, shared_gradients)

    def _outer(self, step: int) -> OuterLoss:
        """The outer loss: theta_T -> (1,), the loss on the real pairs of this outer step."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "noise", step))
        rows = with_noise(self.real.rows(step), self.settings.noise_scale, generator, self.context.ranks)
        loss, weight, temperature = self.context.loss, self.settings.teacher_weight, self.context.loss.first_temperature()
        targets = self.teacher.similarities(rows) if self.teacher else None

        def loss_of_features(images: Tensor, texts: Tensor) -> Tensor:
            pair_loss = loss(images, texts)
            if targets is None or temperature is None:
                return pair_loss
            teacher_loss = soft_cross_entropy(cosines(images, texts) / temperature, targets / temperature)
            return torch.lerp(pair_loss, teacher_loss, weight)

        return self.unroller.loss_of_rows(rows, derive_seed(self.seed, "outer loss", step), loss_of_features)


def with_noise(rows: RealRows, scale: float, generator: torch.Generator, ranks: Ranks = SOLO) -> RealRows:
    """Add Gaussian noise to the inputs and to the texts. Its standard deviation is `scale` times that of their features over
    all rows, averaged over the features; a single row has none and is returned unchanged. The noise is drawn on the CPU, so
    that it is the same on all devices and for any number of ranks."""
    total = rows.total
    if scale == 0 or total < 2:
        return rows
    owned, computed = ranks.rows(total), ranks.rows_to_compute(total)

    def noisy(tensor: Tensor) -> Tensor:
        # A rank that owns no row computes another rank's first row, which must not be counted twice.
        own_rows = tensor[: owned[1] - owned[0]]
        mean = ranks.sum_in_place(own_rows.sum(dim=0)) / total
        deviation = (ranks.sum_in_place((own_rows - mean).square().sum(dim=0)) / (total - 1)).sqrt()
        noise = torch.randn((total, *tensor.shape[1:]), generator=generator)[slice(*computed)].to(tensor)
        return tensor + scale * deviation.mean() * noise

    return RealRows(noisy(rows.inputs), noisy(rows.texts), total)
