"""The settings of trajectory matching, and what follows from them alone."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from vldd_dist.config.base import HOW_TO_RUN, NonNegative, Positive, Rate
from vldd_dist.distillation.blending import Blending
from vldd_dist.distillation.objectives.base import Objective
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image import refuse_backbone_dropout
from vldd_dist.models.losses import Learned, Loss
from vldd_dist.models.parameters import TOWERS
from vldd_dist.plugins import GRADIENTS

# (2,) natural logarithms of the inner learning rates of the image and the text tower. The logarithm is what is learned: a rate
# cannot turn negative (docs/decisions.md).
LOG_RATES = "log_rates"


def _known_gradient(name: str) -> str:
    GRADIENTS.load(name)
    return name


class MatchingSettings(Objective):
    """See `TrajectoryMatching`."""

    needs: ClassVar[frozenset[str]] = frozenset({"experts"})
    advice: ClassVar[str] = "lower distill.lr_images, distill.lr_texts, distill.objective.lr_rates or the inner learning rates"
    name: str = "trajectory_matching"
    inner_steps: Positive = Field(8, description="Student steps an outer step (syn_steps).")
    expert_epochs: Positive = Field(1, description="Epochs of the expert that the student's steps must match.")
    min_start_epoch: NonNegative = Field(0, description="The first of the epochs that start snapshots are drawn from.")
    max_start_epoch: NonNegative = Field(
        2, description="Start snapshots are drawn from min_start_epoch and every start_stride epochs on, up to max_start_epoch."
    )
    start_stride: Positive = Field(
        1, description="Epochs between two starts. Of what lies between, experts keep only the targets."
    )
    blend: Blending | None = Field(
        None,
        description=(
            "{} or {beta: 1.0}: the student's steps mix each pair's features with another's (RepBlend); only with a frozen "
            "backbone. None: they are not mixed."
        ),
    )
    min_experts: Positive | None = Field(
        None,
        description=(
            "A run starts when so many experts, the first ones, are committed; the others join its draws one by one over the "
            "first half of its outer steps. None: it waits for all, and draws from all."
        ),
    )
    gradient: Annotated[str, AfterValidator(_known_gradient)] = Field(
        "exact",
        description="How the unroll is differentiated: full, exact, finite_difference, tesla (README.md, The gradient).",
    )
    difference: Literal["central", "forward"] = Field("central", description="Scheme of finite_difference.")
    dropout: bool = Field(False, description="Run the student with its dropout (masks replayed) instead of without.")
    inner_lr_image: Rate = Field(0.1, description="Inner learning rate of the image tower at the start (lr_teacher_img).")
    inner_lr_text: Rate = Field(0.1, description="Inner learning rate of the text tower at the start (lr_teacher_txt).")
    temperature: Rate | None = Field(
        None,
        description=(
            "Temperature of the loss in the student's steps, where it is another than the experts' and the evaluation's "
            "(published: 1 / log(1 / 0.07) = 0.376); none: that of model.loss."
        ),
    )
    lr_rates: Annotated[float, Field(ge=0)] = Field(
        0.01, description="Outer learning rate of the log inner learning rates (lr_lr); 0 keeps them fixed."
    )
    max_loss: Rate | None = Field(
        20.0,
        description=(
            "A matching loss whose mean over 20 outer steps is larger stops the run as diverged (2 = neither tower of the "
            "student has moved)."
        ),
    )
    check_tolerance: Annotated[Rate, HOW_TO_RUN] = Field(
        0.05,
        description=(
            "Largest relative error of an unroll's gradient against `exact`, on a few pairs, at start-up and later "
            "(finite_difference)."
        ),
    )
    check_every: Annotated[Positive, HOW_TO_RUN] = Field(
        100, description="Outer steps between checks of finite_difference against `exact`."
    )
    offload_snapshots: Annotated[Literal["none", "cpu", "nvme"], HOW_TO_RUN] = Field(
        "none",
        description=(
            "Where the unroll's snapshots wait: with the student, in the host's memory, or on its disk (VLDD_SCRATCH_DIR)."
        ),
    )

    def inner_loss(self, loss: Loss) -> Loss:
        """What the student's steps lower. Raises ValueError where the loss cannot be had at this temperature."""
        return loss if self.temperature is None else loss.at_temperature(self.temperature)

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

    def first_experts(self, count: int) -> int:
        return count if self.min_experts is None else self.min_experts

    def starts(self) -> range:
        """The epochs that starts are drawn from."""
        return range(self.min_start_epoch, self.max_start_epoch + 1, self.start_stride)

    def reached_epochs(self) -> frozenset[int]:
        return frozenset(epoch for start in self.starts() for epoch in (start, start + self.expert_epochs))
