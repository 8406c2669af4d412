"""Bilevel distillation: the pairs are moved to lower the contrastive loss, on real pairs, of a student trained on them.

The student is trained as the evaluation's students are: from fresh heads, by SGD with momentum and weight decay. The gradient
goes back through its last steps (truncated back-propagation through training from a random place of it, Feng et al.
2310.02379). Two things keep the pairs from fitting the training images better than others: noise on the real features, and
targets that are in part the experts' similarities (figures: benchmarks/results/methods.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.config.base import NonNegative, Positive, Rate
from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.objectives.base import OuterGradient, OuterProblem
from vldd_dist.distillation.objectives.unrolled import LOG_RATES, UnrolledObjective
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.real_data.real_features import RealFeatures
from vldd_dist.distillation.real_data.teacher import Teacher, soft_cross_entropy
from vldd_dist.distillation.sampling import draw_batches, inner_batch_size, part_of
from vldd_dist.distillation.student.exchange import BatchExchange, ImageInputs
from vldd_dist.distillation.student.snapshot_shelf import shelf_for
from vldd_dist.distillation.student.unrolling import LocalUnrolling, Segment
from vldd_dist.distillation.unroll import OuterLoss, Params, Sgd
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.dual_encoder import redraw_heads
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.models.parameters import call
from vldd_dist.plugins import GRADIENTS
from vldd_dist.seeding import derive_seed, numpy_generator

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class Bilevel(UnrolledObjective):
    """The loss of real pairs at the end of a student's training on the synthetic ones."""

    needs: ClassVar[frozenset[str]] = frozenset({"real_batches", "experts"})
    # Of finite differences, which are refused here: an unrolling has it among its settings.
    difference: ClassVar[str] = "central"
    name: str = "bilevel"
    inner_steps: Positive = Field(15, description="The student's last steps, through which the gradient goes.")
    skipped_steps: NonNegative = Field(
        40,
        description=(
            "At every other outer step the student first takes 0 to so many steps that are not differentiated, so that the "
            "pairs serve late in its training as well as early."
        ),
    )
    student_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of the student's SGD.")
    student_weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="Weight decay of the student's SGD.")
    inner_lr_image: Rate = Field(0.3, description="Inner learning rate of the image tower at the start.")
    inner_lr_text: Rate = Field(0.3, description="Inner learning rate of the text tower at the start.")
    lr_rates: Annotated[float, Field(ge=0)] = Field(
        0.02, description="Outer learning rate of the log inner learning rates; 0 keeps them fixed."
    )
    real_batch_size: Positive = Field(512, description="Real pairs of the outer loss.")
    noise: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description=(
            "Gaussian noise on what enters the student of real pairs (features of a frozen backbone, or images; and texts), in "
            "units of the batch's standard deviation."
        ),
    )
    teacher: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description=(
            "Share of the outer loss whose targets are the experts' similarities of the real pairs (the mean of their cosines, "
            "of the last epoch, over the loss's temperature) instead of each pair's own; 0: no expert is needed."
        ),
    )

    @contextmanager
    def open(self, context: RunContext) -> Iterator[OuterProblem]:
        context.model.bf16_backbone = context.settings.precision == "bf16"
        with shelf_for(self.offload_snapshots) as shelf:
            unrolling = LocalUnrolling(context.model, context.loss, self, shelf)
            teacher = Teacher(unrolling.student, context.open_experts(None)) if self.teacher else None
            yield BilevelProblem(self, context, unrolling, teacher)

    def problems(self, experiment: "Experiment") -> list[str]:
        distill, key, found = experiment.distill, "distill.objective", []
        if distill.workers > 1 or distill.zero_stage:
            found.append(f"{key}: bilevel runs in one process: set distill.workers to 1 and distill.zero_stage to 0")
        if GRADIENTS.load(self.gradient).first_order_only:
            found.append(f"{key}.gradient: {self.gradient} is not checked for {key}: bilevel: set exact")
        if self.teacher and experiment.model.loss.first_temperature() is None:
            found.append(f"{key}.teacher: model.loss: {experiment.model.loss.name} has no temperature: set {key}.teacher to 0")
        return found

    def needed(self) -> frozenset[str]:
        return self.needs if self.teacher else self.needs - {"experts"}

    def held_snapshots(self, experts: int) -> int:
        return experts if self.teacher else 0

    def snapshots_read(self, experts: int, outer_steps: int) -> int:
        return self.held_snapshots(experts)

    def real_rows(self) -> int:
        return self.real_batch_size

    def plain_steps(self) -> float:
        return self.skipped_steps / 4


class BilevelProblem(OuterProblem):
    """At each outer step a student with fresh heads.

    Args:
        unrolling: of the student; the context's model is its.
        teacher: of the outer loss; none where `settings.teacher` is 0.
    """

    def __init__(self, settings: Bilevel, context: RunContext, unrolling: LocalUnrolling, teacher: Teacher | None) -> None:
        self.settings, self.context, self.unrolling, self.teacher = settings, context, unrolling, teacher
        self.seed = derive_seed(context.seed, "distillation", context.total)
        self.real = RealFeatures(context, unrolling.tower, settings.real_batch_size)
        self.shared_of_loss = list(context.loss.learned_shared())
        self.inputs = ImageInputs(unrolling.tower)

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        settings, context = self.settings, self.context
        rates = settings.inner_rates(pairs.shared, step)
        generator = numpy_generator(self.seed, "bilevel", step)
        skip = int(generator.integers(settings.skipped_steps + 1)) if step % 2 else 0
        size = inner_batch_size(context.settings.batch_size, context.total)
        parts = [part_of(draw_batches(generator, context.total, size, skip + settings.inner_steps), 0, 1)]
        pairs, tower = self.inputs.of(pairs)
        graph_limit = context.settings.tower_graph_mib << 20
        exchange = BatchExchange(context.ranks, tower, pairs, context.total, parts, graph_limit)
        student = self.unrolling.student
        redraw_heads(student.model, derive_seed(self.seed, "heads", step))
        segment = Segment(
            student.view.read(),
            self._outer(step),
            rates,
            exchange.batches,
            [pairs.shared[name] for name in self.shared_of_loss],
            derive_seed(self.seed, "dropout", step),
            exchange.fixed,
            sgd=Sgd(settings.student_momentum, settings.student_weight_decay, skip),
        )
        result = self.unrolling.gradient(segment, None)
        rows, row_gradients = exchange.gradients(result.batches)
        of_loss = dict(zip(self.shared_of_loss, result.shared, strict=True))
        return OuterGradient(
            {"real_pairs": result.terms.item()}, rows, row_gradients, {LOG_RATES: result.rates * rates} | of_loss
        )

    def _outer(self, step: int) -> OuterLoss:
        """The loss of an outer step's real pairs, (1,), as a function of the student's end. The student runs with its
        dropout here, whatever `dropout` says of its steps."""
        student, seed = self.unrolling.student, derive_seed(self.seed, "outer loss", step)
        inputs, texts, _ = self.real.inputs(step)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "noise", step) % 2**63)
        inputs, texts = (with_noise(tensor, self.settings.noise, generator) for tensor in (inputs, texts))
        loss, share, teacher = self.context.loss, self.settings.teacher, self.teacher
        temperature = loss.first_temperature()
        taught = teacher.similarities(inputs, texts) if teacher else None

        def outer(theta: Params) -> Tensor:
            training = student.model.training
            student.model.train()
            try:
                with replayed_randomness(seed, 0, inputs.device):
                    features = call(student.model, student.view, theta, inputs, texts)
            finally:
                student.model.train(training)
            of_pairs = loss(*features)
            if taught is None or temperature is None:
                return of_pairs[None]
            of_teacher = soft_cross_entropy(cosines(*features) / temperature, taught / temperature)
            return torch.lerp(of_pairs, of_teacher, share)[None]

        return outer


def with_noise(rows: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Rows (B, ...) with Gaussian noise of `scale` times the mean over features of their standard deviation; one row has none,
    and stays as it is. The noise is drawn on the CPU, so that every device draws alike."""
    if scale == 0 or len(rows) < 2:
        return rows
    noise = torch.randn(rows.shape, generator=generator).to(rows)
    return rows + scale * rows.std(dim=0).mean() * noise
