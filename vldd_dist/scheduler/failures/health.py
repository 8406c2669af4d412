"""Stopping units that hang or wait too long for other machines, and moving units that are much slower than others of their
kind."""

from collections import Counter

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.attempt_ends import AttemptEnds
from vldd_dist.scheduler.executor import Executor
from vldd_dist.scheduler.failures.stragglers import Stragglers
from vldd_dist.scheduler.limits import RunLimits
from vldd_dist.scheduler.node_avoidance import NodeAvoidance
from vldd_dist.scheduler.running import RunningUnits
from vldd_dist.scheduler.submitting.admission import Admission
from vldd_dist.scheduler.submitting.capacity_notices import WORKER_START_SECONDS
from vldd_dist.scheduler.submitting.resource_set import ResourceSet

# Time between two checks.
HEALTH_SECONDS = 10.0
# The first wait of a unit for other machines than those on which it could not reach the store. Each further wait is twice as
# long.
ELSEWHERE_SECONDS = 600.0


class HealthChecks:
    """Checks the running units, and stops or moves those that need it.

    Args:
        avoidance: learns on which nodes units were slow, and that the others are busy.
        limits: of the run.
    """

    def __init__(
        self,
        executor: Executor,
        admission: Admission,
        running: RunningUnits,
        ends: AttemptEnds,
        avoidance: NodeAvoidance,
        limits: RunLimits,
    ) -> None:
        self._executor, self._admission, self._running = executor, admission, running
        self._ends, self._avoidance = ends, avoidance
        self._stall_timeout_seconds, self._stragglers = limits.stall_timeout_seconds, Stragglers(running)
        # The first wait while no unit of the run runs: it ends before the run gives up, which takes at least the time that a
        # worker needs to start.
        self._seconds_while_none_runs = min(ELSEWHERE_SECONDS, max(limits.capacity_timeout_seconds, WORKER_START_SECONDS) / 2)
        # Unit id -> how often it was told to wait no longer for other machines.
        self._relaxed: Counter[str] = Counter()
        self._checked_at = -float("inf")

    def check(self) -> bool:
        """Check the running units. Call it at every poll; it checks every `HEALTH_SECONDS`. Returns whether it stopped any
        unit, except for those that it moved because they are slow."""
        if self._running.clock() - self._checked_at < HEALTH_SECONDS:
            return False
        self._checked_at = self._running.clock()
        any_stopped = self._end_stalled() | self._stop_waiting_elsewhere()
        self._move_stragglers()
        return any_stopped

    def _end_stalled(self) -> bool:
        hanging = stalled(self._running, self._stall_timeout_seconds)
        for unit, cause in hanging:
            ended = self._executor.stop(unit.id)
            self._ends.attempt_ended(unit, ended or Outcome("broken", cause, 1))
        return bool(hanging)

    def _stop_waiting_elsewhere(self) -> bool:
        """After an outage each unit waits for the machines of the others, which may be too small for all, or busy for days,
        while its own is free. Each wait of a unit is twice as long as the one before, because a machine that alone cannot reach
        the store is always free: it would get the unit until its attempts are used up."""
        now = self._running.clock()
        first = ELSEWHERE_SECONDS if self._running.any_worker_started else self._seconds_while_none_runs
        late = [
            one.unit
            for one in self._running
            if not one.worker_started and now - one.started_at >= first * 2 ** self._relaxed[one.unit.id]
        ]
        relaxed = [unit for unit in late if self._avoidance.relax(unit.id)]
        self._relaxed.update(unit.id for unit in relaxed)
        for unit in relaxed:
            if ended := self._executor.stop(unit.id):
                self._ends.attempt_ended(unit, ended)
            else:
                self._ends.moved(unit, "other machines are busy, so it may run again where it could not reach the store")
        return bool(relaxed)

    def _move_stragglers(self) -> None:
        for unit, cause in self._stragglers.slow():
            # Move it only if there is room for it on another machine: else it would wait to get the same resources back, or run
            # on the same machine again.
            node = self._running[unit.id].node
            if node is None or not self._admission.fits(unit) or not self._has_room_elsewhere(unit, node):
                continue
            self._avoidance.killed_or_slow_on(unit.id, node)
            if ended := self._executor.stop(unit.id):
                self._ends.attempt_ended(unit, ended)
            else:
                self._stragglers.moved(unit)
                self._ends.moved(unit, cause)
            # One at a time: the room that was found is only for this one.
            return

    def _has_room_elsewhere(self, unit: WorkUnit, node: str) -> bool:
        """Whether a node other than this one, on which the unit may run, has enough that no running unit of this run uses. What
        other programs use is not known by node, a group of ranks counts on the node of its rank 0, and a unit whose worker has
        not reported yet on the first node that has room for it."""
        avoided = (node, *self._avoidance.of(unit.id).strictly)
        free = {other: ResourceSet.of(size) for other, size in self._executor.nodes().items() if other not in avoided}
        for running in self._running:
            request, taken = ResourceSet.of(running.unit), running.node
            if taken is None:
                taken = next((other for other, room in free.items() if room.covers(request)), None)
            if taken in free:
                free[taken] = free[taken].minus(request)
        return any(room.covers(ResourceSet.of(unit)) for room in free.values())


def stalled(running: RunningUnits, timeout_seconds: float | None) -> list[tuple[WorkUnit, str]]:
    """The units whose worker has reported nothing for longer than the timeout and is therefore assumed to hang, each with the
    reason to stop it. A unit whose worker has not started yet waits for a machine.

    Args:
        timeout_seconds: None: units are never assumed to hang.
    """
    if timeout_seconds is None:
        return []
    now = running.clock()
    found = []
    for unit in running:
        silence = now - unit.heard_at
        if unit.worker_started and silence >= timeout_seconds:
            found.append((unit.unit, f"it has reported nothing for {silence / 60:.0f} min"))
    return found
