"""A stage: everything that defines one kind of work unit, in one object."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from vldd_dist.artifacts.facts import Facts
from vldd_dist.config.base import Resources, Sharding
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize, Traffic
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import STAGES

# Identifies a unit among those of its kind, for example an expert by its index.
Key = tuple[Any, ...]


class UnitGraph(Protocol):
    """The graph, as a stage sees it."""

    experiment: Experiment

    def unit(self, kind: str, *key: object) -> WorkUnit:
        """The unit of this kind with this key."""
        ...


@dataclass(frozen=True)
class StageSpec:
    """One kind of work unit. Tables list stages in the order of `plugins.STAGES`, which is the order in which they begin.

    Attributes:
        version: raised when the code computes something else from the same spec, so that older outputs are made again.
        title: a plural, for progress, plans and reports.
        section: section of the description with the `resources` (and `workers`) of its workers; None: one CPU.
        result: the model of the facts in a unit's manifest.
        unit: (graph, *key) -> the unit with that key: spec, inputs, execution, label.
        wanted: keys of the units that are results of a run. Units that are only inputs of others are found through these.
        run: what a worker does; returns the facts, in the model `result`.
        priority: of the ready units, the one with the smallest number starts first. Long units have small numbers.
        milestone: the value of `--until` that ends a run with this stage; None: the stage cannot be named there.
        own_process: whether an attempt runs in a process that ends with it, and not in one that later units may use. A process
            with a GPU always ends.
        stores_when_stopped: an attempt that is stopped stores a checkpoint, so it is asked to stop before it is killed.
        lower_for_memory: keys of the description that lower the memory of a unit, for messages.
        memory: (experiment, traces) -> bytes of device memory of one rank at its peak, by name; empty if the experiment has no
            such units. None: not estimated.
        host_memory: (experiment, traces, size of the data set) -> bytes of host memory in which a unit holds the features and
            embeddings of all splits. None: not estimated.
        traffic: (experiment, traces, size of the data set, unit) -> bytes read and written by the unit; for None by the
            largest. None in place of the function: not estimated.
        flops: (experiment, traces, size of the data set, unit) -> floating-point operations of a unit, or None if its objective
            or its application does not count them. None in place of the function: not counted.
    """

    kind: str
    version: int
    title: str
    result: type[Facts]
    unit: Callable[..., WorkUnit]
    run: Callable[[StageContext], Facts]
    priority: int
    wanted: Callable[[UnitGraph], Iterable[Key]] = lambda graph: ()
    section: str | None = None
    milestone: str | None = None
    own_process: bool = False
    stores_when_stopped: bool = False
    lower_for_memory: str = ""
    memory: Callable[[Experiment, TraceOf], Terms] | None = None
    host_memory: Callable[[Experiment, TraceOf, DataSize], int] | None = None
    traffic: Callable[[Experiment, TraceOf, DataSize | None, WorkUnit | None], Traffic] | None = None
    flops: Callable[[Experiment, TraceOf, DataSize, WorkUnit], float | None] | None = None

    def resources(self, experiment: Experiment) -> Resources:
        """The resources of one worker."""
        if self.section is None:
            return Resources()
        resources: Resources = getattr(experiment, self.section).resources
        return resources

    def workers(self, experiment: Experiment) -> int:
        """The number of ranks of a unit."""
        workers: int = self._of_ranks(experiment, "workers", 1)
        return workers

    def _of_ranks(self, experiment: Experiment, name: str, default: Any) -> Any:
        """A setting of the stage's section that only sections of stages with ranks have."""
        return getattr(getattr(experiment, self.section or "", None), name, default)

    def new(
        self,
        experiment: Experiment,
        spec: dict[str, Any],
        inputs: dict[str, WorkUnit] | None = None,
        execution: dict[str, Any] | None = None,
        label: str = "",
        *,
        resources: Resources | None = None,
        later: frozenset[str] = frozenset(),
    ) -> WorkUnit:
        """A unit of this kind, with the fields that are the same for all units of the stage filled in."""
        sharding: Sharding = self._of_ranks(experiment, "sharding", "none")
        return WorkUnit(
            self.kind,
            spec,
            inputs or {},
            execution or {},
            resources or self.resources(experiment),
            label,
            self.workers(experiment),
            sharding=sharding,
            rank_timeout_seconds=self._of_ranks(experiment, "rank_timeout_seconds", 0),
            device=experiment.device,
            later=later,
            version=self.version,
            own_process=self.own_process,
            stores_when_stopped=self.stores_when_stopped,
        )


@cache
def stage_of(kind: str) -> StageSpec:
    """The stage of a kind of unit. Raises ValueError if the kind is unknown."""
    stage: StageSpec = STAGES.load(kind)
    assert stage.kind == kind, f"plugins.STAGES has {stage.kind} under {kind}"
    return stage


def all_stages() -> list[StageSpec]:
    """All stages, in the order of `plugins.STAGES`."""
    return [stage_of(kind) for kind in STAGES]


def title_of(kind: str) -> str:
    """The title of the stage; the kind itself if this version does not know it."""
    return stage_of(kind).title if kind in STAGES else kind


def position_of(kind: str) -> int:
    """Sort key for tables: the stage's position in `plugins.STAGES`; unknown kinds come last."""
    kinds = list(STAGES)
    return kinds.index(kind) if kind in kinds else len(kinds)


def milestones() -> list[str]:
    """The values of `--until`, in order."""
    return [stage.milestone for stage in all_stages() if stage.milestone]


def stage_until(milestone: str) -> StageSpec:
    """The stage with which `--until` ends a run.

    Raises:
        ConfigError: no stage has this milestone.
    """
    found = next((stage for stage in all_stages() if stage.milestone == milestone), None)
    if found is None:
        raise ConfigError(f"--until {milestone}: there is no such stage: choose one of {', '.join(milestones())}")
    return found
