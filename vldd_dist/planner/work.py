"""How long the units to run would take: floating-point operations over what a device sustains."""

from collections.abc import Iterable
from dataclasses import dataclass

from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize
from vldd_dist.pipeline.stage import StageSpec, all_stages, stage_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.estimator import Estimator

# FLOP/s that training sustains: about a third of what an A100 has in TF32, and what one core of a server has in fp32.
GPU_SUSTAINED, CORE_SUSTAINED = 50e12, 30e9
HOUR = 3600.0
NO_COUNT = "the number of images is not known before the dataset is made"


@dataclass
class Work:
    """Of one stage's units that are not done.

    Attributes:
        unknown: units whose operations are not known; they are in `units` and `writes`, and not in the other figures.
        gpu_hours, core_hours: of units that ask for GPUs, and of the others.
        writes: bytes, checkpoints included.
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
        return Work(*(own + another for own, another in zip(vars(self).values(), vars(other).values(), strict=True)))


# (experiment, its units that are to run, size of its data, estimator for its captions' size).
Planned = tuple[Experiment, list[WorkUnit], DataSize | None, Estimator]


def count_work(planned: Iterable[Planned]) -> tuple[dict[StageSpec, Work], list[str]]:
    """Stage -> its work, and a sentence for each reason why some of it is not known."""
    found: dict[StageSpec, Work] = {}
    reasons: dict[str, None] = {}
    for experiment, units, data, estimator in planned:
        for unit in units:
            stage = stage_of(unit.kind)
            if stage.flops is not None:
                flops = None if data is None else stage.flops(experiment, estimator.trace, data, unit)
                work = found.setdefault(stage, Work())
                work.add(flops, unit.gpus > 0)
                if flops is None:
                    reasons[f"?: of {stage.title}, because {NO_COUNT if data is None else _not_modelled(experiment)}"] = None
                if stage.traffic is not None:
                    work.writes += stage.traffic(experiment, estimator.trace, data).writes
    return {stage: found[stage] for stage in all_stages() if stage in found}, list(reasons)


def _not_modelled(experiment: Experiment) -> str:
    return f"operations of the objective {experiment.distill.objective.name} are not counted"
