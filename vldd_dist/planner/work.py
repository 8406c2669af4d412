"""How long the units to run would take: their floating-point operations divided by what a device sustains."""

from collections.abc import Iterable
from dataclasses import dataclass

from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize
from vldd_dist.pipeline.stage import StageSpec, all_stages, stage_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.estimator import UNTRACED, Estimator, why_untraced

# FLOP/s that training sustains: about a third of the TF32 peak of an A100, and the fp32 rate of one core of a server.
GPU_SUSTAINED, CORE_SUSTAINED = 50e12, 30e9
HOUR = 3600.0
NO_COUNT = "the number of images is not known before the dataset is prepared"


@dataclass
class Work:
    """The work of those units of a stage that are not done.

    Attributes:
        unknown: number of units whose operations are not known. They are included in `units` and `writes` only.
        gpu_hours, core_hours: hours of the units that ask for GPUs, and of the other units.
        writes: bytes written, including checkpoints.
    """

    units: int = 0
    unknown: int = 0
    flops: float = 0.0
    gpu_hours: float = 0.0
    core_hours: float = 0.0
    writes: int = 0

    def add(self, flops: float | None, on_gpu: bool) -> None:
        self.units += 1
        if flops is None:
            self.unknown += 1
            return
        self.flops += flops
        if on_gpu:
            self.gpu_hours += flops / GPU_SUSTAINED / HOUR
        else:
            self.core_hours += flops / CORE_SUSTAINED / HOUR

    def __add__(self, other: "Work") -> "Work":
        return Work(*(ours + theirs for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class PlannedExperiment:
    """What is planned of an experiment.

    Attributes:
        units: its units to run, without those that an earlier experiment of the plan has.
        data: size of its data; None if unknown.
        estimator: for the size of its caption embeddings.
    """

    experiment: Experiment
    units: list[WorkUnit]
    data: DataSize | None
    estimator: Estimator


def count_work(planned: Iterable[PlannedExperiment]) -> tuple[dict[StageSpec, Work], list[str]]:
    """Stage -> its work; sentences that say which work is not known, and why."""
    work_of: dict[StageSpec, Work] = {}
    reasons: dict[str, None] = {}
    uncounted: set[StageSpec] = set()
    for one in planned:
        experiment, data, traces = one.experiment, one.data, one.estimator.trace
        for unit in one.units:
            stage = stage_of(unit.kind)
            if stage.flops is None:
                uncounted.add(stage)
            else:
                flops: float | None = None
                reason = NO_COUNT
                if data is not None:
                    try:
                        flops, reason = stage.flops(experiment, traces, data, unit), _not_modelled(experiment, unit)
                    except UNTRACED as error:
                        reason = why_untraced(experiment, error)
                work = work_of.setdefault(stage, Work())
                work.add(flops, unit.gpus > 0)
                if flops is None:
                    reasons[f"?: the work of {stage.title} is unknown, because {reason}"] = None
                if stage.traffic is not None:
                    work.writes += stage.traffic(experiment, traces, data, unit).writes
    notes = list(reasons)
    if uncounted:
        notes.append(f"The hours do not include: {', '.join(stage.title for stage in all_stages() if stage in uncounted)}")
    return {stage: work_of[stage] for stage in all_stages() if stage in work_of}, notes


def _not_modelled(experiment: Experiment, unit: WorkUnit) -> str:
    if unit.kind == "application":
        return f"the application {unit.spec['application']['name']} does not count its operations"
    return f"the objective {experiment.distill.objective.name} does not count its operations"
