"""How long the units to run would take: floating-point operations over what a device sustains."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize
from vldd_dist.cost_model.memory_model import GIB
from vldd_dist.pipeline.stage import StageSpec, all_stages, stage_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.estimator import Estimator

# FLOP/s that training sustains: about a third of what an A100 has in TF32, and what one core of a server has in fp32.
GPU_SUSTAINED, CORE_SUSTAINED = 50e12, 30e9
PFLOP, HOUR = 1e15, 3600.0


@dataclass
class Work:
    """Of one stage's units that are not done.

    Attributes:
        flops: of all of them; none: of one at least it is not known.
        gpu_hours, core_hours: of units that ask for GPUs, and of the others.
        writes: bytes, checkpoints included.
    """

    units: int = 0
    flops: float | None = 0.0
    gpu_hours: float = 0.0
    core_hours: float = 0.0
    writes: int = 0

    def add(self, flops: float | None, on_gpu: bool) -> None:
        self.units += 1
        if flops is None or self.flops is None:
            self.flops = None
            return
        self.flops += flops
        if on_gpu:
            self.gpu_hours += flops / GPU_SUSTAINED / HOUR
        else:
            self.core_hours += flops / CORE_SUSTAINED / HOUR


# (experiment, its units that are to run, size of its data, estimator for its captions' size).
Planned = tuple[Experiment, list[WorkUnit], DataSize | None, Estimator]


def count_work(planned: Iterable[Planned]) -> dict[StageSpec, Work]:
    """Stage -> its work."""
    found: dict[StageSpec, Work] = {}
    for experiment, units, data, estimator in planned:
        for unit in units:
            stage = stage_of(unit.kind)
            if stage.flops is not None:
                flops = None if data is None else stage.flops(experiment, estimator.trace, data, unit)
                work = found.setdefault(stage, Work())
                work.add(flops, unit.gpus > 0)
                if stage.traffic is not None:
                    work.writes += stage.traffic(experiment, estimator.trace, data).writes
    return {stage: found[stage] for stage in all_stages() if stage in found}


def work_table(work: dict[StageSpec, Work]) -> Table:
    """For a person."""
    table = Table(
        title="Work of what is to run",
        caption=f"At {GPU_SUSTAINED / 1e12:g} TFLOP/s a GPU and {CORE_SUSTAINED / 1e9:g} GFLOP/s a core, sustained; "
        "without decoding, uploads and waiting.",
    )
    for column in ("stage", "units", "PFLOP", "GPU-hours", "core-hours", "writes, GiB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, one in work.items():
        table.add_row(stage.title, str(one.units), *_figures(one))
    if len(work) > 1:
        every = Work(
            sum(one.units for one in work.values()),
            None if any(one.flops is None for one in work.values()) else sum(one.flops or 0 for one in work.values()),
            sum(one.gpu_hours for one in work.values()),
            sum(one.core_hours for one in work.values()),
            sum(one.writes for one in work.values()),
        )
        table.add_section()
        table.add_row("all", str(every.units), *_figures(every))
    return table


def _figures(work: Work) -> list[str]:
    writes = f"{work.writes / GIB:,.1f}"
    if work.flops is None:
        return ["?", "?", "?", writes]
    return [f"{work.flops / PFLOP:,.2f}", f"{work.gpu_hours:,.2f}", f"{work.core_hours:,.2f}", writes]
