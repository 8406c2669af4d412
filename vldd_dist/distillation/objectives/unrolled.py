"""The common part of the objectives that train a student on the pairs for a few steps and differentiate through these steps."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import AfterValidator, Field, NonNegativeFloat
from torch import Tensor

from vldd_dist.config.base import HOW_TO_RUN, Positive, Rate
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.inner_batches import inner_batch_size
from vldd_dist.distillation.objectives.base import Objective
from vldd_dist.distillation.objectives.costs import ObjectiveCosts, PassCosts
from vldd_dist.distillation.student import make_unroller
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.distillation.student.snapshot_offload import snapshot_stack
from vldd_dist.distillation.student.unroller import Unroller
from vldd_dist.distillation.unroll import UnrollResult
from vldd_dist.errors import DivergenceError
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.backbone import refuse_backbone_dropout
from vldd_dist.models.losses import Learned, Loss
from vldd_dist.models.parameters import TOWERS
from vldd_dist.plugins import GRADIENTS

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.config.sections.distillation import DistillationSettings

# Name of the shared tensor (2,): natural logarithms of the inner learning rates of the image and the text tower. The logarithm
# is learned, so that a rate cannot become negative (docs/decisions.md).
LOG_RATES = "log_rates"


def _known_gradient(name: str) -> str:
    GRADIENTS.load(name)
    return name


class UnrolledObjective(Objective):
    """An objective that trains a student on the pairs for a few steps and differentiates through these steps."""

    restarted: ClassVar[frozenset[str]] = frozenset({LOG_RATES})
    advice: ClassVar[str] = "lower distill.lr_images, distill.lr_texts, distill.objective.lr_rates or the inner learning rates"
    inner_steps: Positive = Field(8, description="Inner steps of each outer step: the student's training steps (syn_steps).")
    gradient: Annotated[str, AfterValidator(_known_gradient)] = Field(
        "exact",
        description="How the unroll is differentiated: full, exact, finite_difference, tesla (docs/methods.md).",
    )
    dropout: bool = Field(
        False,
        description="Train the student with its dropout; all passes over one inner step use the same masks. The outer loss of "
        "bilevel always has dropout.",
    )
    inner_lr_image: Rate = Field(0.1, description="Inner learning rate of the image tower at the start (lr_teacher_img).")
    inner_lr_text: Rate = Field(0.1, description="Inner learning rate of the text tower at the start (lr_teacher_txt).")
    lr_rates: NonNegativeFloat = Field(
        0.01, description="Outer learning rate of the logarithms of the inner learning rates (lr_lr); 0 keeps them fixed."
    )
    offload_snapshots: Annotated[Literal["none", "cpu", "nvme"], HOW_TO_RUN] = Field(
        "none",
        description=(
            "Where the unroll keeps its snapshots: on the student's device (none), in host memory (cpu), or on disk, in "
            "VLDD_SCRATCH_DIR (nvme)."
        ),
    )

    def in_short(self) -> str:
        return f"{super().in_short()}, {self.inner_steps} inner steps, gradient {self.gradient}"

    def learned_shared(self) -> dict[str, Learned]:
        return {LOG_RATES: Learned(torch.tensor([self.inner_lr_image, self.inner_lr_text]).log(), self.lr_rates)}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        return {f"inner_lr_{tower}": rate for tower, rate in zip(TOWERS, shared[LOG_RATES].exp().tolist(), strict=True)}

    def wants_smooth_student(self) -> bool:
        return GRADIENTS.load(self.gradient).first_order_only

    def refuse_on_ranks(self, model: DualEncoder) -> None:
        if self.dropout:
            refuse_backbone_dropout(model)

    def conflicts(self, experiment: "Experiment") -> list[str]:
        """Which settings `gradient` does not work with. Subclasses append their own."""
        key, distill, gradient = "distill.objective.gradient", experiment.distill, GRADIENTS.load(self.gradient)
        conflicts = []
        if gradient.first_order_only and not self.allows_finite_differences():
            conflicts.append(
                f"{key}: {self.gradient} is accepted only where it is checked against exact, and distill.objective: "
                f"{self.name} does not check it: set exact"
            )
        if gradient.first_order_only and distill.precision == "bf16":
            conflicts.append(
                f"distill.precision: bf16 with {key}: {self.gradient}: the rounding error of bf16 is larger than the "
                "difference of the two passes (docs/decisions.md, Precision and memory); set precision to fp32 or gradient to "
                "exact"
            )
        if gradient.derivatives is None and (distill.workers > 1 or distill.sharding != "none"):
            conflicts.append(
                f"{key}: {self.gradient} keeps one graph in one process: set exact, or distill.workers to 1 and sharding to "
                "none"
            )
        return conflicts

    def inner_rates(self, shared: Mapping[str, Tensor], step: int) -> Tensor:
        """(2,) inner learning rates of the image and the text tower. Raises DivergenceError if one is zero or not finite."""
        rates = shared[LOG_RATES].exp()
        if not bool((rates.isfinite() & (rates > 0)).all()):
            raise DivergenceError(f"the inner learning rates are {rates.tolist()} at outer step {step}: {self.advice}")
        return rates

    @contextmanager
    def opened_unroller(self, context: DistillationContext, loss: Loss) -> Iterator[Unroller]:
        """Yields an unroller of the context's model as a student with this loss."""
        settings = context.settings
        context.model.bf16_backbone = settings.precision == "bf16"
        batch_size = inner_batch_size(settings.batch_size, context.total)
        with snapshot_stack(self.offload_snapshots) as snapshots:
            yield make_unroller(context.model, loss, self, snapshots, context.ranks, settings.sharding, batch_size)

    def shared_gradients(self, result: UnrollResult, rates: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The gradients of the shared tensors by name.

        Args:
            rates: the inner learning rates of the unroll.
            names: the names of its shared tensors.
        """
        # d/d(log rate) = rate * d/d(rate).
        return {LOG_RATES: result.rate_gradients * rates} | dict(zip(names, result.shared_gradients, strict=True))

    def allows_finite_differences(self) -> bool:
        """Whether the unroll may be differentiated by finite differences. An objective that allows them must refuse a student
        with kinks (`refuse_kinked_student`), and check them by `Unroller.check_differences`."""
        return False

    def difference_scheme(self) -> str:
        """The scheme of finite differences, "central" or "forward"."""
        return "central"

    def blending(self) -> Blending | None:
        """How the student's steps mix features; None: they do not."""
        return None

    def costs(self) -> "UnrolledCosts[Any]":
        return UnrolledCosts(self)


SomeUnrolled = TypeVar("SomeUnrolled", bound=UnrolledObjective)


class UnrolledCosts(ObjectiveCosts[SomeUnrolled]):
    """The costs of an objective that trains a student for a few steps and differentiates through them."""

    reads_slices = True

    def longest_run(self) -> int:
        """The largest number of steps that a student takes, including those that are not differentiated."""
        return self.objective.inner_steps

    def has_momentum(self) -> bool:
        """Whether the student's steps have momentum."""
        return False

    def real_copies(self) -> int:
        """The number of changed copies of its real pairs that an outer step holds."""
        return 0

    def plain_steps(self) -> float:
        """The mean number of steps that a student takes before those that are differentiated."""
        return 0

    def step_flops(self, passes: PassCosts, settings: "DistillationSettings", pairs: int) -> float:
        """See `ObjectiveCosts.step_flops`. T inner steps cost:

        - `exact`: T - 1 gradients forward, and T steps differentiated twice on the way back. `full` costs the same, in one
          graph. `tesla` is counted alike, although it does not take the products with respect to the parameters.
        - `finite_difference`: central 3 T gradients (T forward, two a step on the way back), forward 2 T.
        - Steps before those that are differentiated: one gradient each. An outer loss on real pairs: one gradient.
        - A frozen backbone: a pass of each used image through it and back to the pixels, unless the images are fixed; a pass of
          the real images, unless their features are given.
        """
        steps, fixed = self.objective.inner_steps, settings.fixed()
        batch = inner_batch_size(settings.batch_size, pairs)
        used = min(pairs, (steps + self.plain_steps()) * batch)
        pixels = used * passes.pixels if passes.freezes_backbone and "images" not in fixed else 0
        if GRADIENTS.load(self.objective.gradient).first_order_only:
            return self.difference_passes() * batch * passes.training + pixels
        plain = steps - 1 + self.plain_steps()
        inner = batch * (plain * passes.training + steps * passes.second_order(fixed))
        real = passes.training + (passes.encoding if passes.freezes_backbone and not passes.has_features else 0)
        return inner + pixels + self.real_rows() * real

    def difference_passes(self) -> int:
        """The number of gradients that finite differences take for all inner steps of an outer step."""
        return (3 if self.objective.difference_scheme() == "central" else 2) * self.objective.inner_steps
