"""The coordinator: runs what is missing, in the order of the graph, as many units at once as the resources allow.

It keeps no state: the store says what is done, so it can be killed at any time and the same command goes on. A unit that
ends costs time by the number of its users, not by the size of the graph.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vldd_dist.errors import ConfigError
from vldd_dist.monitoring.progress import ProgressBoard
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Executor
from vldd_dist.scheduler.failure_policy import RetryBudget
from vldd_dist.scheduler.patience import Patience
from vldd_dist.scheduler.ready_queue import PARTS, Parts, ReadyQueue, WaitingUnits
from vldd_dist.scheduler.retries import Retries
from vldd_dist.scheduler.stragglers import Stragglers
from vldd_dist.store.store import Store

POLL_SECONDS = 0.25
CAPACITY_SECONDS = 1.0
JUDGE_SECONDS = 10.0
# Workers begin within seconds: after so long without any a person should know.
PLACE_SECONDS = 60.0
# Units submitted beyond what there is room for where the machines may grow: an autoscaler acts on what waits.
AHEAD = 32


@dataclass
class RunResult:
    """What became of the units.

    Attributes:
        ran: units done by this call.
        found: units that were done before.
        failed: units that ended for good without output, with the cause.
        blocked: units that need a failed one.
    """

    ran: list[WorkUnit] = field(default_factory=list)
    found: list[WorkUnit] = field(default_factory=list)
    failed: list[tuple[WorkUnit, Outcome]] = field(default_factory=list)
    blocked: list[WorkUnit] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return self.failed[0][1].exit_code if self.failed else 0


class Controller:
    """Args:
    units: every unit of the plan, inputs first.
    make_executor: called only when something is missing, for starting Ray takes seconds.
    should_stop: asked several times a second; true ends the run as Ctrl-C does.
    max_running: units at once, at least 1, to leave room for other runs on the cluster; none: as many as fit.
    stall_timeout_seconds: a unit that reports nothing for so long is ended and tried again elsewhere; none: never.
    clock, sleep: in seconds.
    """

    def __init__(
        self,
        units: list[WorkUnit],
        store: Store,
        make_executor: Callable[[], Executor],
        board: ProgressBoard,
        budget: RetryBudget | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        max_running: int | None = None,
        stall_timeout_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        assert max_running is None or max_running >= 1
        self.units = {unit.id: unit for unit in units}
        self.store, self.make_executor, self.board = store, make_executor, board
        self.should_stop, self.max_running, self.clock, self.sleep = should_stop, max_running, clock, sleep
        self.stall_timeout_seconds = stall_timeout_seconds
        self.board.max_running = max_running
        self.result = RunResult()
        self._retries = Retries(budget or RetryBudget(), clock)
        self._positions = {unit_id: position for position, unit_id in enumerate(self.units)}
        self._waiting, self._ready = WaitingUnits(), ReadyQueue()
        # All that is submitted; of that, in order, what waits for room, and is not among what is used.
        self._running: set[str] = set()
        self._ahead: dict[str, WorkUnit] = {}
        # What the machines have, and the most they have had since the run began.
        self._used = self._capacity = self._most = Parts(0, 0)
        self._may_grow = False
        self._asked_at = -float("inf")
        self._patience = Patience(board.notice, clock)
        # Of what was submitted, whose worker has begun.
        self._heard: set[str] = set()
        # Ids of units that are done, and of those that will never be.
        self._done: set[str] = set()
        self._gone: set[str] = set()
        self._stragglers = Stragglers(board)
        self._judged_at = -float("inf")

    def run(self) -> RunResult:
        """Run all missing units; a failed one stops only those that need it.

        Raises:
            ConfigError: a unit asks for more than the machines ever had, and there will be no others.
            InterruptedRun: the machines are gone and did not come back, or none came.
            KeyboardInterrupt: after everything running was ended; the store holds what was committed.
        """
        units = list(self.units.values())
        done = self._done = committed_units(self.store, units)
        self.result.found = [unit for unit in units if unit.id in done]
        for unit in units:
            if unit.id not in done:
                self._await_inputs(unit, done)
        self.board.begin(units, done)
        if len(done) == len(units):
            return self.result
        executor = self.make_executor()
        try:
            self._loop(executor)
        finally:
            executor.close()
        return self.result

    def _await_inputs(self, unit: WorkUnit, done: set[str]) -> None:
        assert {needed.id for needed in unit.inputs.values()} <= self.units.keys(), f"the plan lacks an input of {unit.label}"
        missing = {needed.id for role, needed in unit.inputs.items() if role not in unit.later} - done
        if missing:
            self._waiting.add(unit.id, missing)
        else:
            self._make_ready(unit)

    def _make_ready(self, unit: WorkUnit) -> None:
        self._ready.add(unit, self._positions[unit.id])

    def _loop(self, executor: Executor) -> None:
        while self._ready or self._running or self._retries.waiting:
            if self.should_stop():
                raise KeyboardInterrupt
            if self._ready or self._running:
                self._submit_ready(executor)
            else:
                self.sleep(POLL_SECONDS)
            ended = executor.wait(POLL_SECONDS)
            # First: they tell on which node an attempt was.
            for unit_id, event in executor.events():
                self._hear(unit_id)
                self.board.event(unit_id, event)
            for unit_id, outcome in ended:
                self._settle(self.units[unit_id], outcome, executor)
            for unit_id, outcome in self._retries.ended_pauses():
                self._retry_or_fail(self.units[unit_id], outcome, executor)
            if self.clock() - self._judged_at >= JUDGE_SECONDS:
                self._judged_at = self.clock()
                self._end_silent(executor)
                self._move_stragglers(executor)
            self.board.refresh()

    def _submit_ready(self, executor: Executor) -> None:
        if self.clock() - self._asked_at >= CAPACITY_SECONDS:
            self._ask_capacity(executor)
        self._submit_what_fits(executor)
        if not self._running:
            # Machines may have joined since the last look.
            self._ask_capacity(executor)
            self._submit_what_fits(executor)
        if self._may_grow:
            self._submit_ahead(executor)
        if self._heard:
            self._patience.no_more()
        elif len(self._running) > len(self._ahead):
            self._wait_for_a_place()
        elif self._retries.waiting:
            # A unit follows in a moment; an executor that runs nothing returns from `wait` at once.
            self.sleep(POLL_SECONDS)
        else:
            self._wait_for_machines()

    def _ask_capacity(self, executor: Executor) -> None:
        capacity = executor.capacity()
        self._asked_at, self._capacity = self.clock(), Parts.of(capacity)
        self._most = self._most.or_more(self._capacity)
        self._may_grow = capacity.may_grow
        self.board.capacity, self.board.gpus = capacity.cpus, capacity.gpus

    def _submit_what_fits(self, executor: Executor) -> None:
        for submitted in list(self._ahead.values()):
            if self._capacity.less(self._used).holds(Parts.of(submitted)):
                self._has_room(submitted.id)
        # Ray keeps nothing for a large unit in its queue.
        promised = self._waits_for_room()[:1]
        while self._may_submit():
            unit = self._ready.take(self._capacity.less(self._used), self._capacity, promised)
            if unit is None:
                return
            self._submit(unit, executor)
            self._has_room(unit.id)

    def _submit_ahead(self, executor: Executor) -> None:
        if self._waits_for_room():
            # Filled up again and again, the queue would always have small units that a large one in it sees pass.
            return
        while len(self._ahead) < AHEAD and self._may_submit() and (unit := self._ready.take_first()):
            self._submit(unit, executor)

    def _waits_for_room(self) -> list[Parts]:
        """What units in Ray's queue ask for that the machines there are could run."""
        return [wanted for unit in self._ahead.values() if self._capacity.holds(wanted := Parts.of(unit))]

    def _may_submit(self) -> bool:
        return self.max_running is None or len(self._running) < self.max_running

    def _submit(self, unit: WorkUnit, executor: Executor) -> None:
        self._running.add(unit.id)
        self._ahead[unit.id] = unit
        executor.submit(unit.order(self._retries.avoid.get(unit.id)))

    def _hear(self, unit_id: str) -> None:
        if unit_id in self._running:
            self._heard.add(unit_id)
            self._has_room(unit_id)

    def _has_room(self, unit_id: str) -> None:
        """What was submitted runs, or will at once."""
        if unit := self._ahead.pop(unit_id, None):
            self._used = self._used.plus(Parts.of(unit))
            self.board.started(unit)

    def _wait_for_a_place(self) -> None:
        """All machines together have room for what was submitted; that one of them has shows when a worker begins."""
        unit = self.units[next(unit_id for unit_id in self._running if unit_id not in self._ahead)]
        trouble = f"{self._more_than_there_is(unit)} together"
        self._patience.wait(trouble, "one that has as much free", "none took it", PLACE_SECONDS)

    def _wait_for_machines(self) -> None:
        """Nothing runs, and nothing that is ready fits."""
        unit = next(iter(self._ahead.values()), None) or self._ready.first(within=self._most)
        if unit is None:
            unit = self._ready.first()
            assert unit is not None
            raise ConfigError(f"{self._more_than_there_is(unit)}: lower its resources or workers, or add machines")
        self._patience.wait(f"{self._more_than_there_is(unit)} now", "machines", "no others came")
        # An executor that runs nothing returns from `wait` at once.
        self.sleep(POLL_SECONDS)

    def _more_than_there_is(self, unit: WorkUnit) -> str:
        has = f"{self._capacity.cpus / PARTS:g} and {self._capacity.gpus / PARTS:g}"
        return f"{unit.label} asks for {unit.cpus:g} CPUs and {unit.gpus:g} GPUs, the machines have {has}"

    def _settle(self, unit: WorkUnit, outcome: Outcome, executor: Executor) -> None:
        if outcome.node is None:
            outcome = replace(outcome, node=self.board.latest.get(unit.id, {}).get("node"))
        self._release(unit)
        self._patience.no_more()
        if outcome.status == "done":
            self._done.add(unit.id)
            self.result.ran.append(unit)
            self.board.finished(unit)
            for user_id in self._waiting.done(unit.id):
                self._make_ready(self.units[user_id])
        elif outcome.status == "waits":
            self.board.waits(unit, self.units[outcome.awaits])
            self._await_late(unit, outcome.awaits)
        elif pause := self._retries.pause(unit.id, outcome):
            self.board.paused(unit, pause)
        else:
            self._retry_or_fail(unit, outcome, executor)

    def _retry_or_fail(self, unit: WorkUnit, outcome: Outcome, executor: Executor) -> None:
        again, outcome = self._retries.judge(unit, outcome, executor.lives)
        if again:
            self._make_ready(unit)
            self.board.retried(unit, outcome.cause)
        else:
            self.result.failed.append((unit, outcome))
            self.board.failed(unit, outcome.cause)
            self._lose(unit.id)

    def _release(self, unit: WorkUnit) -> None:
        # It may have run where by our count there was no room.
        self._has_room(unit.id)
        self._running.remove(unit.id)
        self._heard.discard(unit.id)
        self._used = self._used.less(Parts.of(unit))

    def _await_late(self, unit: WorkUnit, input_id: str) -> None:
        if input_id in self._done:
            self._make_ready(unit)
        else:
            self._waiting.add(unit.id, {input_id})
            if input_id in self._gone:
                self._lose(input_id)

    def _lose(self, unit_id: str) -> None:
        """It will never be done, nor will what waits for it."""
        self._gone.add(unit_id)
        for user_id in self._waiting.failed(unit_id):
            self._gone.add(user_id)
            self.result.blocked.append(self.units[user_id])
            self.board.blocked(self.units[user_id])

    def _end_silent(self, executor: Executor) -> None:
        if self.stall_timeout_seconds is None:
            return
        for unit, seconds in self.board.silent_units(self.stall_timeout_seconds):
            cause = f"it has reported nothing for {seconds / 60:.0f} min"
            ended = executor.stop(unit.id)
            self._settle(unit, ended or Outcome("broken", cause, 1), executor)

    def _move_stragglers(self, executor: Executor) -> None:
        for unit, cause in self._stragglers.slow():
            # As large a place must be free, or it would only lose its own.
            if self._capacity.less(self._used).holds(Parts.of(unit)):
                self._retries.avoid[unit.id] = self.board.latest[unit.id].get("node")
                if ended := executor.stop(unit.id):
                    self._settle(unit, ended, executor)
                    continue
                self._stragglers.moved(unit)
                self._release(unit)
                self._make_ready(unit)
                self.board.retried(unit, cause)
