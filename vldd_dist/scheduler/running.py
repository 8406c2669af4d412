"""The running units and what is known about each: when it started, its node, its speed, and when it last reported."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vldd_dist.events import Progress, UnitReported
from vldd_dist.pipeline.work_unit import WorkUnit


@dataclass
class RunningUnit:
    """Attributes:
    started_at: clock time in seconds at which its resources were reserved.
    heard_at: clock time of its last report; `started_at` before its first.
    worker_started: whether it has reported, so that its worker must be running; before that, the worker may still be
        waiting for a machine.
    node: id of the node on which it runs; known once it has reported.
    speed: samples or steps per second in its latest progress report.
    """

    unit: WorkUnit
    started_at: float
    heard_at: float
    worker_started: bool = False
    node: str | None = None
    speed: float | None = None


class RunningUnits:
    """Args:
    clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._units: dict[str, RunningUnit] = {}
        # The number of units with `worker_started`, counted as they change because it is needed at every poll.
        self._workers = 0

    def __iter__(self) -> Iterator[RunningUnit]:
        return iter(self._units.values())

    def __getitem__(self, unit_id: str) -> RunningUnit:
        return self._units[unit_id]

    def __bool__(self) -> bool:
        return bool(self._units)

    @property
    def any_worker_started(self) -> bool:
        return self._workers > 0

    def start(self, unit: WorkUnit) -> None:
        now = self.clock()
        self._units[unit.id] = RunningUnit(unit, now, now)

    def report(self, reported: UnitReported) -> None:
        """Record a report of a running unit."""
        running = self._units[reported.unit_id]
        running.heard_at = self.clock()
        self._workers += not running.worker_started
        running.worker_started = True
        running.node = reported.node or running.node
        if isinstance(reported.report, Progress):
            running.speed = reported.report.speed

    def end(self, unit_id: str) -> tuple[RunningUnit, float]:
        """Remove a unit. Returns what was known about it and the seconds since it was started."""
        running = self._units.pop(unit_id)
        self._workers -= running.worker_started
        return running, self.clock() - running.started_at
