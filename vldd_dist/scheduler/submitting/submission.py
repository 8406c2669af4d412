"""Submitting ready units: those that fit and, where an autoscaler may add machines, some more."""

from collections.abc import Callable

from vldd_dist.events import CapacityChanged, RunEvent, UnitStarted
from vldd_dist.pipeline.running_unit import RunningUnit
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Executor
from vldd_dist.scheduler.node_avoidance import NodeAvoidance
from vldd_dist.scheduler.running import RunningUnits
from vldd_dist.scheduler.submitting.admission import Admission
from vldd_dist.scheduler.submitting.ready_queue import ReadyQueue

# Time between two requests for the machines' capacity while units run.
CAPACITY_SECONDS = 1.0


class Submission:
    """Moves units from the ready queue to the executor, and reserves the resources of those that run.

    Args:
        avoidance: names the nodes on which a unit should not run.
        clock: in seconds.
    """

    def __init__(
        self,
        executor: Executor,
        ready: ReadyQueue,
        admission: Admission,
        running: RunningUnits,
        avoidance: NodeAvoidance,
        emit: Callable[[RunEvent], None],
        clock: Callable[[], float],
    ) -> None:
        self._executor, self._ready, self._admission, self._running = executor, ready, admission, running
        self._avoidance, self._emit, self._clock = avoidance, emit, clock
        self._asked_at = -float("inf")

    def submit_ready(self) -> None:
        """Submit all units that may be submitted now."""
        if self._clock() - self._asked_at >= CAPACITY_SECONDS:
            self._ask_capacity()
        self._submit_fitting()
        if not self._admission.submitted:
            # Machines may have joined since the last request.
            self._ask_capacity()
            self._submit_fitting()
        if self._admission.may_grow and not self._admission.queued_within_capacity():
            # While a queued unit waits that the machines could run, no others are added to Ray's queue: small ones would always
            # overtake a large one.
            self._submit_beyond()

    def start(self, unit_id: str) -> None:
        """Record that a submitted unit runs, or will start at once. Does nothing if this is already recorded."""
        if unit := self._admission.admit(unit_id):
            self._running.start(unit)
            self._emit(UnitStarted(unit.id))

    def end(self, unit: WorkUnit) -> tuple[RunningUnit, float]:
        """Record that an attempt ended. Returns what was known about the unit and the seconds since it started."""
        # A unit that is still queued here ran although its resources were not free by this count.
        self.start(unit.id)
        self._admission.release(unit)
        return self._running.end(unit.id)

    def _ask_capacity(self) -> None:
        capacity = self._executor.capacity()
        self._asked_at = self._clock()
        self._admission.update(capacity)
        self._emit(CapacityChanged(capacity.cpus, capacity.gpus))

    def _submit_fitting(self) -> None:
        admission = self._admission
        for queued in list(admission.queued.values()):
            if admission.fits(queued):
                self.start(queued.id)
        # Ray reserves nothing for a large unit in its queue, so free resources are kept here for the first such unit.
        promised = admission.queued_within_capacity()[:1]
        while admission.may_submit() and (unit := self._ready.take(admission.free, admission.capacity, promised)):
            self._submit(unit)
            self.start(unit.id)

    def _submit_beyond(self) -> None:
        while self._admission.may_queue() and (unit := self._ready.take_first()):
            self._submit(unit)

    def _submit(self, unit: WorkUnit) -> None:
        self._admission.submit(unit)
        self._executor.submit(unit.order(self._avoidance.of(unit.id)))
