"""The plug-in of trajectory matching."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.objectives.base import OuterProblem
from vldd_dist.distillation.objectives.trajectory_matching.checks import problems_of
from vldd_dist.distillation.objectives.trajectory_matching.problem import MatchingProblem
from vldd_dist.distillation.objectives.trajectory_matching.settings import MatchingSettings
from vldd_dist.distillation.sampling import inner_batch_size
from vldd_dist.distillation.student import make_unrolling
from vldd_dist.distillation.student.snapshot_offload import snapshot_stack
from vldd_dist.seeding import derive_seed

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class TrajectoryMatching(MatchingSettings):
    """The outer loss is the student's squared distance from the expert's target, relative to the squared distance that the
    expert moved; one term for each tower."""

    @contextmanager
    def open(self, context: RunContext) -> Iterator[OuterProblem]:
        settings = context.settings
        context.model.bf16_backbone = settings.precision == "bf16"
        batch_size = inner_batch_size(settings.batch_size, context.total)
        with snapshot_stack(self.offload_snapshots) as snapshots:
            loss = self.inner_loss(context.loss)
            unrolling = make_unrolling(context.model, loss, self, snapshots, context.ranks, settings.sharding, batch_size)
            seed = derive_seed(context.seed, "distillation", context.total)
            yield MatchingProblem(self, context, unrolling, context.open_experts(unrolling.part), seed)

    def problems(self, experiment: "Experiment") -> list[str]:
        return problems_of(self, experiment)
