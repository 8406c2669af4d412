"""The units that run, by what they report: since when, where and how fast, and when they last reported."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vldd_dist.events import Progress, UnitReported
from vldd_dist.pipeline.work_unit import WorkUnit


@dataclass
class RunningUnit:
    """Attributes:
    started_at: when its resources were reserved, seconds of the clock.
    heard_at: when it last reported anything, or was started.
    worker_started: it has reported, so its worker runs; before, the worker may still wait for a machine.
    node: id of the node it runs on, once it has reported.
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
    clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._units: dict[str, RunningUnit] = {}
        # How many workers have started: kept, since it is asked for at every poll.
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
        """Take note of what a running unit reports."""
        running = self._units[reported.unit_id]
        running.heard_at = self.clock()
        self._workers += not running.worker_started
        running.worker_started = True
        running.node = reported.node or running.node
        if isinstance(reported.report, Progress):
            running.speed = reported.report.speed

    def end(self, unit_id: str) -> tuple[RunningUnit, float]:
        """Forget the unit; returns what was known of it, and the seconds since it was started."""
        running = self._units.pop(unit_id)
        self._workers -= running.worker_started
        return running, self.clock() - running.started_at
