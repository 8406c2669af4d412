"""The settings of trajectory matching, and quantities that are computed from them alone."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from vldd_dist.config.base import HOW_TO_RUN, NonNegative, Positive
from vldd_dist.distillation.objectives.trajectory_matching.asynchronous import Asynchronous
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import Shortcut
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs
from vldd_dist.distillation.objectives.unrolled import UnrolledCosts, UnrolledObjective
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.models.losses import Loss


class TrajectoryMatchingSettings(UnrolledObjective):
    """The settings of `TrajectoryMatching`."""

    needs: ClassVar[frozenset[str]] = frozenset({"experts"})
    in_phases: ClassVar[bool] = True
    name: str = "trajectory_matching"
    expert_epochs: Positive = Field(1, description="Epochs of the expert that the student's steps must match.")
    min_start_epoch: NonNegative = Field(0, description="The first epoch of the experts that the student may start from.")
    max_start_epoch: NonNegative = Field(
        2, description="Start epochs are min_start_epoch and every start_stride-th epoch after it, up to max_start_epoch."
    )
    start_stride: Positive = Field(
        1, description="Epochs between two starts. Experts store only the snapshots of starts and targets."
    )
    asynchronous: Asynchronous | None = Field(
        None,
        description=(
            "{}, {auto: true} or {image: [0, 1], text: [1, 2]}: the start epochs of the two towers are drawn independently "
            "(AMD). null: both towers start at the same epoch."
        ),
    )
    shortcut: Shortcut | None = Field(
        None,
        description=(
            "{} or {first_epoch: 0, last_epoch: 5}: match the straight line between two snapshots of the expert, followed at "
            "the expert's own pace (PTM-ST). Experts store all snapshots between the two. null: match the expert's own path."
        ),
    )
    blend: Blending | None = Field(
        None,
        description=(
            "{} or {beta: 1.0}: the student's steps mix each pair's features with another's (RepBlend); only with a frozen "
            "backbone. null: they are not mixed."
        ),
    )
    min_experts: Positive | None = Field(
        None,
        description=(
            "Number of experts that must be committed before a distillation starts (those with the lowest indices). The others "
            "are added one by one during the first half of its outer steps. null: it waits for all experts, and draws from all."
        ),
    )
    difference: Literal["central", "forward"] = Field("central", description="Scheme of finite_difference.")
    temperature: PositiveFloat | None = Field(
        None,
        description=(
            "Temperature of the loss in the student's steps, if it differs from that of the experts and the evaluation "
            "(published: 1 / log(1 / 0.07) = 0.376). null: the temperature of model.loss."
        ),
    )
    max_loss: Annotated[PositiveFloat | None, HOW_TO_RUN] = Field(
        20.0,
        description=(
            "The distillation stops as diverged when the mean matching loss of 20 outer steps exceeds it (2 means that neither "
            "tower of the student has changed)."
        ),
    )
    check_tolerance: Annotated[PositiveFloat, HOW_TO_RUN] = Field(
        0.05,
        description=(
            "Largest relative error of finite_difference against `exact`, for the gradient of an unroll on a few pairs, at the "
            "start and every check_every outer steps."
        ),
    )
    check_every: Annotated[Positive, HOW_TO_RUN] = Field(
        100, description="Outer steps between checks of finite_difference against `exact`."
    )

    def without_effect(self) -> frozenset[str]:
        # Not by `Gradient.first_order_only`, because any gradient of a plug-in gets the scheme.
        return frozenset({"difference"}) if self.gradient in ("full", "exact", "tesla") else frozenset()

    def inner_loss(self, loss: Loss) -> Loss:
        """The loss of the student's steps. Raises ValueError if the loss cannot have this temperature."""
        return loss if self.temperature is None else loss.at_temperature(self.temperature)

    def in_short(self) -> str:
        variants = {"asynchronous": self.asynchronous, "shortcut": self.shortcut, "blended": self.blend}
        return ", ".join([super().in_short(), *(name for name, setting in variants.items() if setting is not None)])

    def first_experts(self, count: int) -> int:
        return count if self.min_experts is None else self.min_experts

    def starts(self) -> range:
        """All start epochs."""
        return range(self.min_start_epoch, self.max_start_epoch + 1, self.start_stride)

    def starts_of_towers(self) -> list[Epochs]:
        """The pairs of start epochs to draw from, before `Asynchronous.auto` narrows them."""
        starts = self.starts()
        return [(start, start) for start in starts] if self.asynchronous is None else self.asynchronous.starts(starts)

    def matched_epochs(self) -> frozenset[int]:
        """All starts and their targets."""
        starts = frozenset(start for epochs in self.starts_of_towers() for start in epochs)
        return starts | {start + self.expert_epochs for start in starts}

    def shortcut_epochs(self) -> range:
        """The epochs from the first to the last snapshot of the shortcut; empty without one."""
        matched = self.matched_epochs()
        return range(0) if self.shortcut is None else self.shortcut.epochs(min(matched), max(matched))

    def reached_epochs(self) -> frozenset[int]:
        return self.matched_epochs().union(self.shortcut_epochs())

    def allows_finite_differences(self) -> bool:
        return True

    def difference_scheme(self) -> str:
        return self.difference

    def blending(self) -> Blending | None:
        return self.blend

    def costs(self) -> "TrajectoryMatchingCosts":
        return TrajectoryMatchingCosts(self)


class TrajectoryMatchingCosts(UnrolledCosts[TrajectoryMatchingSettings]):
    """The costs of `TrajectoryMatching`."""

    def held_snapshots(self, experts: int) -> int:
        return 2

    def snapshots_read(self, experts: int, outer_steps: int) -> int:
        """No more than all snapshots that can be reached, and no more than it asks for."""
        return min(experts * len(self.objective.reached_epochs()), self.snapshots_drawn(experts, outer_steps))

    def snapshots_drawn(self, experts: int, outer_steps: int) -> int:
        """Two in a step, and with a shortcut also the rest of the expert's path when the expert is first drawn."""
        objective = self.objective
        paths = 0 if objective.shortcut is None else min(experts, outer_steps) * (len(objective.reached_epochs()) - 2)
        auto = objective.asynchronous is not None and objective.asynchronous.auto
        read_at_start = objective.first_experts(experts) * len(objective.matched_epochs()) if auto else 0
        return read_at_start + paths + 2 * outer_steps
