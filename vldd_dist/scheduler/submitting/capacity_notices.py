"""Tells the user about units whose worker does not start although the machines together have room for it, and about GPUs that
no unit of the run will use."""

from collections.abc import Callable, Iterable

from vldd_dist.events import RunEvent, RunNotice
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.node_avoidance import NodeAvoidance
from vldd_dist.scheduler.running import RunningUnits
from vldd_dist.scheduler.submitting.admission import Admission
from vldd_dist.scheduler.submitting.resource_set import ResourceSet

# Workers usually start within seconds. If one has not started after this time, the user is told.
WORKER_START_SECONDS = 60.0


class CapacityNotices:
    """Compares the units with the machines, and emits each notice once.

    Args:
        missing: the units that are not committed.
    """

    def __init__(
        self,
        missing: Iterable[WorkUnit],
        running: RunningUnits,
        admission: Admission,
        avoidance: NodeAvoidance,
        emit: Callable[[RunEvent], None],
    ) -> None:
        units = list(missing)
        self._gpus_may_be_unused = not any(unit.gpus for unit in units) and any(unit.device != "cpu" for unit in units)
        self._running, self._admission, self._avoidance, self._emit = running, admission, avoidance, emit
        # Kind and request of the units that were reported, and whether they avoid machines: others like them wait for the same
        # reason.
        self._reported: set[tuple[str, ResourceSet, bool]] = set()

    def check(self) -> None:
        """Emit what is new. Call it at regular intervals."""
        # While no unit runs, the controller waits with a timeout.
        if self._running.any_worker_started:
            self._check_late_workers()
        # On a cluster, machines with GPUs may join hours after the start.
        if self._gpus_may_be_unused and self._admission.capacity.gpus:
            self._gpus_may_be_unused = False
            self._emit(
                RunNotice(
                    f"the machines have {self._admission.capacity}, and no unit asks for a GPU: --gpus 1 gives one to each "
                    "worker that runs a network"
                )
            )

    def _check_late_workers(self) -> None:
        now = self._running.clock()
        for running in self._running:
            unit, avoids = running.unit, bool(self._avoidance.of(running.unit.id).strictly)
            like = unit.kind, ResourceSet.of(unit), avoids
            is_late = not running.worker_started and now - running.started_at >= WORKER_START_SECONDS
            if is_late and like not in self._reported and self._admission.has_room(unit):
                self._reported.add(like)
                self._emit(RunNotice(self._admission.shortage_of_started(unit, avoids).notice))
