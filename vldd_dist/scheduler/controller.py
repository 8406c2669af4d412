"""The controller: runs the units that are missing from the store, inputs first, as many at once as the resources allow.

It keeps no state between runs. The store says what is committed, so the controller can be killed at any time and the same
command resumes the run. The decisions are made by the classes that it connects.
"""

from collections.abc import Callable

from vldd_dist.errors import ConfigError
from vldd_dist.events import RunNotice, UnitReported
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.attempt_ends import AttemptEnds
from vldd_dist.scheduler.dependencies import Dependencies
from vldd_dist.scheduler.executor import Capacity, Executor
from vldd_dist.scheduler.failures.health import HealthChecks
from vldd_dist.scheduler.failures.retries import Retries
from vldd_dist.scheduler.limits import NO_LIMITS, REAL_TIME, RunClock, RunLimits
from vldd_dist.scheduler.node_avoidance import NodeAvoidance
from vldd_dist.scheduler.observer import RunObserver
from vldd_dist.scheduler.result import RunResult
from vldd_dist.scheduler.running import RunningUnits
from vldd_dist.scheduler.submitting.admission import Admission
from vldd_dist.scheduler.submitting.capacity_notices import WORKER_START_SECONDS, CapacityNotices
from vldd_dist.scheduler.submitting.capacity_timeout import CapacityTimeout
from vldd_dist.scheduler.submitting.ready_queue import ReadyQueue
from vldd_dist.scheduler.submitting.submission import Submission
from vldd_dist.store.store import Store

POLL_SECONDS = 0.25


class Controller:
    """Runs the units of a plan in the order of their inputs, tries failed ones again, and ends when no unit can run.

    Args:
        units: every unit of the plan, inputs first.
        make_executor: called only when a unit is missing, because starting Ray takes seconds.
        observer: receives every event.
        should_stop: called at every poll; if it returns True, the run ends as with Ctrl-C.
    """

    def __init__(
        self,
        units: list[WorkUnit],
        store: Store,
        make_executor: Callable[[], Executor],
        observer: RunObserver,
        limits: RunLimits = NO_LIMITS,
        should_stop: Callable[[], bool] = lambda: False,
        clock: RunClock = REAL_TIME,
    ) -> None:
        self.units = {unit.id: unit for unit in units}
        self.result = RunResult()
        self._store, self._make_executor, self._observer, self._should_stop = store, make_executor, observer, should_stop
        self._limits, self._clock = limits, clock
        self._positions = {unit_id: position for position, unit_id in enumerate(self.units)}
        self._ready, self._admission, self._running = ReadyQueue(), Admission(limits.max_running), RunningUnits(clock.now)
        self._avoidance = NodeAvoidance()
        self._capacity_timeout = CapacityTimeout(
            lambda text: observer.event(RunNotice(text)), clock.now, limits.capacity_timeout_seconds
        )

    def run(self) -> RunResult:
        """Run all missing units. A failed unit stops only the units that need it.

        Raises:
            ConfigError: a unit asks for more than the machines have, and no machines will be added. Nothing was run.
            InterruptedRun: all machines were lost and none came back, or none ever joined.
            KeyboardInterrupt: `should_stop` returned True. All running units were stopped; committed units stay in the store.
        """
        units = list(self.units.values())
        committed = committed_units(self._store, units)
        self.result.found = [unit for unit in units if unit.id in committed]
        dependencies = Dependencies(committed)
        for unit in units:
            assert all(needed.id in self.units for needed in unit.inputs.values()), f"the plan lacks an input of {unit.label}"
            required = {needed.id for role, needed in unit.inputs.items() if role not in unit.later}
            if unit.id not in committed and dependencies.add(unit.id, required):
                self._make_ready(unit)
        self._observer.begin(units, committed, self._admission.max_running)
        if missing := [unit for unit in units if unit.id not in committed]:
            executor = self._make_executor()
            try:
                self._refuse_too_large(executor.capacity(), missing)
                self._loop(executor, dependencies, missing)
            finally:
                executor.close()
        return self.result

    def _refuse_too_large(self, capacity: Capacity, missing: list[WorkUnit]) -> None:
        """Raises ConfigError if a unit could never run. Its inputs may take hours, and it is refused before them."""
        self._admission.update(capacity)
        if not capacity.may_grow and (unit := next((unit for unit in missing if not self._admission.could_run(unit)), None)):
            raise ConfigError(f"{self._admission.shortfall(unit)}: lower its resources or workers, or add machines")

    def _make_ready(self, unit: WorkUnit) -> None:
        self._ready.add(unit, self._positions[unit.id])

    def _loop(self, executor: Executor, dependencies: Dependencies, missing: list[WorkUnit]) -> None:
        emit, avoidance = self._observer.event, self._avoidance
        retries = Retries(self._limits.retry_budget, self._clock.now, executor.is_alive, avoidance)
        submission = Submission(executor, self._ready, self._admission, self._running, avoidance, emit, self._clock.now)
        ends = AttemptEnds(self.units, dependencies, retries, submission, self._make_ready, emit, self.result)
        health = HealthChecks(executor, self._admission, self._running, ends, avoidance, self._limits)
        notices = CapacityNotices(missing, self._running, self._admission, avoidance, emit)
        while self._ready or self._admission.submitted or retries.any_paused:
            if self._should_stop():
                raise KeyboardInterrupt
            if self._ready or self._admission.submitted:
                submission.submit_ready()
                self._check_capacity(retries.any_paused)
            else:
                self._clock.sleep(POLL_SECONDS)
            ended = executor.wait(POLL_SECONDS)
            # Reports come first, because they say on which node an attempt ran.
            for reported in executor.reports():
                self._take_report(reported, submission)
            for unit_id, outcome in ended:
                ends.attempt_ended(self.units[unit_id], outcome)
            ends.decide_paused()
            if health.check() or ended:
                self._capacity_timeout.reset()
            notices.check()
            self._observer.refresh()

    def _take_report(self, reported: UnitReported, submission: Submission) -> None:
        if reported.unit_id in self._admission.submitted:
            submission.start(reported.unit_id)
            self._running.report(reported)
            self._observer.event(reported)

    def _check_capacity(self, any_paused: bool) -> None:
        """While no worker runs, sleep (an idle executor's `wait` returns at once) and give up after a timeout.

        Args:
            any_paused: whether a unit waits for the end of the pause after a failed attempt.
        """
        if self._running.any_worker_started:
            self._capacity_timeout.reset()
        elif started := next(iter(self._running), None):
            avoids = bool(self._avoidance.of(started.unit.id).strictly)
            self._capacity_timeout.wait(self._admission.shortage_of_started(started.unit, avoids), WORKER_START_SECONDS)
        elif any_paused:
            self._clock.sleep(POLL_SECONDS)
        else:
            unit = next(iter(self._admission.queued.values()), None) or self._ready.first()
            assert unit is not None, "else the loop has ended"
            self._capacity_timeout.wait(self._admission.shortage_now(unit))
            self._clock.sleep(POLL_SECONDS)
