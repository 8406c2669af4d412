"""The state of a run, computed from its events. Views show or store it: terminal, status, metrics, trackers, report."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from vldd_dist.events import (
    CapacityChanged,
    RunEvent,
    UnitBlocked,
    UnitFailed,
    UnitFinished,
    UnitPaused,
    UnitReported,
    UnitRetried,
    UnitStarted,
    UnitWaits,
)
from vldd_dist.pipeline.running_unit import RunningUnit
from vldd_dist.pipeline.stage import position_of
from vldd_dist.pipeline.work_unit import WorkUnit


class View:
    """Shows or stores the state of a run. Each method does nothing here; a view overrides those that it needs. They must not
    block, because the controller's loop calls them. The time is `state.clock()`."""

    def begin(self, state: "RunState") -> None:
        """Called once, before anything runs."""

    def event(self, event: RunEvent, state: "RunState") -> None:
        """Called for each event, after the state was updated with it."""

    def refresh(self, state: "RunState") -> None:
        """Called several times a second."""

    def end(self) -> None:
        """Called once, when the run is over."""


class RunState:
    """Follows a run (it is a `scheduler.observer.RunObserver`), and passes events on to the views.

    Attributes:
        units: id -> unit, for all units of the plan.
        one_of_kind: kind -> one of its units; all units of a kind ask for the same resources.
        cpus, gpus: of all machines together, for the estimate of the time left.
        max_running: the largest number of units at once; None: as many as fit.
        total, done, failed: kind -> number of units. `failed` includes units that a failed unit blocks.
        running: id -> the running unit.
        timed, seconds: kind -> number of units that this run finished, and the sum of their durations, for a resumed unit that
            of a single attempt.
        began_at: clock time in seconds at which the run began.
    """

    def __init__(self, views: Sequence[View], clock: Callable[[], float] = time.monotonic) -> None:
        self.views, self.clock = list(views), clock
        self.units: dict[str, WorkUnit] = {}
        self.one_of_kind: dict[str, WorkUnit] = {}
        self.cpus, self.gpus = 1.0, 0.0
        self.max_running: int | None = None
        self.total: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.running: dict[str, RunningUnit] = {}
        self.timed: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.began_at = clock()

    def begin(self, units: Sequence[WorkUnit], committed: AbstractSet[str], max_running: int | None = None) -> None:
        self.began_at, self.max_running = self.clock(), max_running
        self.units = {unit.id: unit for unit in units}
        self.one_of_kind = {unit.kind: unit for unit in units}
        for unit in sorted(units, key=lambda unit: position_of(unit.kind)):
            self.total[unit.kind] += 1
            self.done[unit.kind] += unit.id in committed
        for view in self.views:
            view.begin(self)

    def event(self, event: RunEvent) -> None:
        if isinstance(event, UnitReported) and event.unit_id not in self.running:
            return
        self._apply(event)
        for view in self.views:
            view.event(event, self)

    def refresh(self) -> None:
        for view in self.views:
            view.refresh(self)

    def end(self) -> None:
        for view in self.views:
            view.end()

    def _apply(self, event: RunEvent) -> None:
        match event:
            case UnitReported(unit_id):
                self.running[unit_id].report(event, self.clock())
            case UnitStarted(unit_id):
                now = self.clock()
                self.running[unit_id] = RunningUnit(self.units[unit_id], now, now)
            case UnitFinished(unit_id, seconds):
                kind = self.units[unit_id].kind
                running = self.running.pop(unit_id, None)
                self.done[kind] += 1
                self.timed[kind] += 1
                self.seconds[kind] += running.whole_seconds(seconds) if running else seconds
            case UnitPaused(unit_id) | UnitRetried(unit_id) | UnitWaits(unit_id):
                self.running.pop(unit_id, None)
            case UnitFailed(unit_id) | UnitBlocked(unit_id):
                self.running.pop(unit_id, None)
                self.failed[self.units[unit_id].kind] += 1
            case CapacityChanged(cpus, gpus):
                self.cpus, self.gpus = cpus, gpus

    def running_by_kind(self) -> dict[str, list[RunningUnit]]:
        """Kind -> its running units."""
        by_kind: dict[str, list[RunningUnit]] = defaultdict(list)
        for running in self.running.values():
            by_kind[running.unit.kind].append(running)
        return by_kind
