"""The settings of trajectory matching, and what follows from them alone."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vldd_dist.config.base import HOW_TO_RUN, NonNegative, Positive, Rate
from vldd_dist.distillation.objectives.trajectory_matching.asynchronous import Asynchronous
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import Shortcut
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.models.losses import Loss


class MatchingSettings(UnrolledObjective):
    """See `TrajectoryMatching`."""

    needs: ClassVar[frozenset[str]] = frozenset({"experts"})
    name: str = "trajectory_matching"
    expert_epochs: Positive = Field(1, description="Epochs of the expert that the student's steps must match.")
    min_start_epoch: NonNegative = Field(0, description="The first of the epochs that start snapshots are drawn from.")
    max_start_epoch: NonNegative = Field(
        2, description="Start snapshots are drawn from min_start_epoch and every start_stride epochs on, up to max_start_epoch."
    )
    start_stride: Positive = Field(
        1, description="Epochs between two starts. Of what lies between, experts keep only the targets."
    )
    asynchronous: Asynchronous | None = Field(
        None,
        description=(
            "{}, {auto: true} or {image: [0, 1], text: [1, 2]}: start epochs of the towers are drawn apart (AMD). None: both "
            "towers start at the same."
        ),
    )
    shortcut: Shortcut | None = Field(
        None,
        description=(
            "{} or {first_epoch: 0, last_epoch: 5}: experts go straight from one snapshot to the other, at their own pace "
            "(PTM-ST); experts keep all snapshots between. None: as they went."
        ),
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
    difference: Literal["central", "forward"] = Field("central", description="Scheme of finite_difference.")
    temperature: Rate | None = Field(
        None,
        description=(
            "Temperature of the loss in the student's steps, where it is another than the experts' and the evaluation's "
            "(published: 1 / log(1 / 0.07) = 0.376); none: that of model.loss."
        ),
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

    def inner_loss(self, loss: Loss) -> Loss:
        """What the student's steps lower. Raises ValueError where the loss cannot be had at this temperature."""
        return loss if self.temperature is None else loss.at_temperature(self.temperature)

    def in_short(self) -> str:
        more = {"asynchronous": self.asynchronous, "shortcut": self.shortcut, "blended": self.blend}
        named = ["", *(word for word, setting in more.items() if setting is not None)]
        return f"{super().in_short()}{', '.join(named)}"

    def first_experts(self, count: int) -> int:
        return count if self.min_experts is None else self.min_experts

    def starts(self) -> range:
        """All start epochs."""
        return range(self.min_start_epoch, self.max_start_epoch + 1, self.start_stride)

    def starts_of_towers(self) -> list[Epochs]:
        """What is drawn from, before `Asynchronous.auto` narrows it."""
        every = self.starts()
        return [(start, start) for start in every] if self.asynchronous is None else self.asynchronous.starts(every)

    def matched_epochs(self) -> frozenset[int]:
        """All starts and their targets."""
        starts = {start for epochs in self.starts_of_towers() for start in epochs}
        return frozenset(epoch for start in starts for epoch in (start, start + self.expert_epochs))

    def straightened_epochs(self) -> range:
        """Of a shortcut; without one nothing."""
        matched = self.matched_epochs()
        return range(0) if self.shortcut is None else self.shortcut.epochs(min(matched), max(matched))

    def reached_epochs(self) -> frozenset[int]:
        return self.matched_epochs().union(self.straightened_epochs())

    def passes_of_differences(self) -> int:
        return 3 * self.inner_steps - 1 if self.difference == "central" else 2 * self.inner_steps

    def held_snapshots(self, experts: int) -> int:
        return 2

    def snapshots_read(self, experts: int, outer_steps: int) -> int:
        """At most: those of the epochs that can be reached, once each, and no more than the outer steps take."""
        every = len(self.reached_epochs())
        of_a_step = 2 if self.shortcut is None else every
        paced = self.asynchronous is not None and self.asynchronous.auto
        at_once = self.first_experts(experts) * len(self.matched_epochs()) if paced else 0
        return min(experts * every, at_once + outer_steps * of_a_step)
