"""Tells the user about units whose worker does not start although the machines together have room for it."""

from collections.abc import Callable

from vldd_dist.events import RunEvent, RunNotice
from vldd_dist.scheduler.running import RunningUnits
from vldd_dist.scheduler.submitting.admission import Admission
from vldd_dist.scheduler.submitting.resource_set import ResourceSet

# Workers usually start within seconds. If one has not started after this time, the user is told.
WORKER_START_SECONDS = 60.0


class LateWorkers:
    """Looks after units that wait while others run; while none runs, the controller waits with a timeout."""

    def __init__(self, running: RunningUnits, admission: Admission, emit: Callable[[RunEvent], None]) -> None:
        self._running, self._admission, self._emit = running, admission, emit
        # Kind and request of the units that were reported: others of their kind wait for the same reason.
        self._reported: set[tuple[str, ResourceSet]] = set()

    def check(self) -> None:
        """Emit a notice for each kind of unit that waits. Call it at regular intervals."""
        if not self._running.any_worker_started:
            return
        now = self._running.clock()
        for running in self._running:
            unit, request = running.unit, (running.unit.kind, ResourceSet.of(running.unit))
            is_late = not running.worker_started and now - running.started_at >= WORKER_START_SECONDS
            if is_late and request not in self._reported and self._admission.has_room(unit):
                self._reported.add(request)
                self._emit(RunNotice(self._admission.shortage_of_started(unit).notice))
