"""A stage: everything there is to say about one kind of work unit, in one object."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

from vldd_dist.artifacts.facts import Facts
from vldd_dist.config.base import Resources
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize, Traffic
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import STAGES

# Tells one unit of a kind from another, for example an expert's index.
Key = tuple[Any, ...]


class Units(Protocol):
    """The graph, as a stage sees it."""

    experiment: Experiment

    def unit(self, kind: str, *key: object) -> WorkUnit:
        """The unit of a kind with a key."""
        ...


@dataclass(frozen=True)
class StageSpec:
    """One kind of work unit. Its place in `plugins.STAGES` is its place in tables: stages in the order in which they begin.

    Attributes:
        version: raised when the code changes what it makes from the same spec; older outputs are then made again.
        title: plural, in progress, plans and reports.
        section: of the description, whose `resources` (and `workers`) its workers ask for; none: one CPU.
        result: the facts in a unit's manifest.
        unit: (graph, *key) -> the unit with that key: spec, inputs, execution, label.
        wanted: keys of the units that a run ends with; those that others need as inputs are found through them.
        run: what a worker does; returns the facts.
        priority: of units that are ready the one with the smallest number starts first: what takes long goes first.
        milestone: the value of `--until` that ends a run with this stage; none: it ends with a later one.
        attempt: task: a worker process that further units may use (without a GPU); actor: a process of its own.
        stores_when_stopped: a stopped attempt stores a checkpoint; it is asked first, then ended.
        lower_for_memory: keys of the description that lower what a unit takes of memory.
        memory: (experiment, traces) -> bytes of a rank's device at its worst moment, nothing where the experiment has no such
            units; none: not estimated.
        traffic: (experiment, traces, size of the dataset) -> bytes read and written; none: not estimated.
        flops: (experiment, traces, size of the dataset, unit) -> floating-point operations of a unit, none where its objective
            is not modelled; no function: not worth counting.
    """

    kind: str
    version: int
    title: str
    result: type[Facts]
    unit: Callable[..., WorkUnit]
    run: Callable[[StageContext], dict[str, Any]]
    priority: int
    wanted: Callable[[Units], Iterable[Key]] = lambda graph: ()
    section: str | None = None
    milestone: str | None = None
    attempt: Literal["task", "actor"] = "task"
    stores_when_stopped: bool = False
    lower_for_memory: str = ""
    memory: Callable[[Experiment, TraceOf], Terms] | None = None
    traffic: Callable[[Experiment, TraceOf, DataSize | None], Traffic] | None = None
    flops: Callable[[Experiment, TraceOf, DataSize, WorkUnit], float | None] | None = None

    def resources(self, experiment: Experiment) -> Resources:
        """What one worker asks for."""
        if self.section is None:
            return Resources()
        resources: Resources = getattr(experiment, self.section).resources
        return resources

    def workers(self, experiment: Experiment) -> int:
        """Ranks that make a unit together."""
        workers: int = getattr(getattr(experiment, self.section or "", None), "workers", 1)
        return workers

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
        """A unit of this kind; what the stage says of all its units is filled in."""
        return WorkUnit(
            self.kind,
            spec,
            inputs or {},
            {"device": experiment.device, **(execution or {})},
            resources or self.resources(experiment),
            label,
            self.workers(experiment),
            later,
            version=self.version,
            attempt=self.attempt,
            stores_when_stopped=self.stores_when_stopped,
        )


@cache
def stage_of(kind: str) -> StageSpec:
    """Raises ValueError for an unknown kind."""
    stage: StageSpec = STAGES.load(kind)
    assert stage.kind == kind, f"plugins.STAGES has {stage.kind} under {kind}"
    return stage


def all_stages() -> list[StageSpec]:
    """In the order of `plugins.STAGES`."""
    return [stage_of(kind) for kind in STAGES]


def title_of(kind: str) -> str:
    """A stage's title; of a kind that this version does not know, its name."""
    return stage_of(kind).title if kind in STAGES else kind


def position_of(kind: str) -> int:
    """In tables: stages in the order in which they begin, unknown kinds last."""
    kinds = list(STAGES)
    return kinds.index(kind) if kind in kinds else len(kinds)


def milestones() -> list[str]:
    """The values of `--until`, in order."""
    return [stage.milestone for stage in all_stages() if stage.milestone]
