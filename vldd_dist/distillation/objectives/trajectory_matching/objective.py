"""The plug-in of trajectory matching."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.objectives.outer_problem import OuterProblem
from vldd_dist.distillation.objectives.trajectory_matching.conflicts import conflicts_of
from vldd_dist.distillation.objectives.trajectory_matching.problem import TrajectoryMatchingProblem
from vldd_dist.distillation.objectives.trajectory_matching.settings import TrajectoryMatchingSettings

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class TrajectoryMatching(TrajectoryMatchingSettings):
    """The outer loss is the student's squared distance from the expert's target, relative to the squared distance that the
    expert moved; one term for each tower.

    Attributes:
        problem_class: its outer problem, of which a subclass may have another with its own outer loss.
    """

    problem_class: ClassVar[type[TrajectoryMatchingProblem]] = TrajectoryMatchingProblem

    @contextmanager
    def open(self, context: DistillationContext) -> Iterator[OuterProblem]:
        with self.opened_unroller(context, self.inner_loss(context.loss)) as unroller:
            experts = context.open_experts(unroller.snapshot_slices)
            yield self.problem_class(self, context, unroller, experts, context.derived_seed())

    def conflicts(self, experiment: "Experiment") -> list[str]:
        return [*super().conflicts(experiment), *conflicts_of(self, experiment)]
