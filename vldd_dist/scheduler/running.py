"""The running units: when each started, its node, its speed, and when it last reported."""

from collections.abc import Callable, Iterator

from vldd_dist.events import UnitReported
from vldd_dist.pipeline.running_unit import RunningUnit
from vldd_dist.pipeline.work_unit import WorkUnit


class RunningUnits:
    """The running units by id.

    Args:
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
        self._workers += not running.worker_started
        running.report(reported, self.clock())

    def end(self, unit_id: str) -> tuple[RunningUnit, float]:
        """Remove a unit. Returns what was known about it and the seconds since it was started."""
        running = self._units.pop(unit_id)
        self._workers -= running.worker_started
        return running, self.clock() - running.started_at
