"""What happens after an attempt ends: the unit is done, waits for an input, is tried again, or has failed."""

from collections.abc import Callable
from dataclasses import replace

from vldd_dist.events import RunEvent, UnitBlocked, UnitFailed, UnitFinished, UnitPaused, UnitRetried, UnitWaits
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.dependencies import Dependencies
from vldd_dist.scheduler.failures.retries import Retries
from vldd_dist.scheduler.result import RunResult
from vldd_dist.scheduler.submitting.submission import Submission


class AttemptEnds:
    """Decides what follows each attempt, and records it in the result of the run.

    Args:
        units: id -> unit, for all units of the plan.
        make_ready: puts a unit into the ready queue.
        result: filled in as units end.
    """

    def __init__(
        self,
        units: dict[str, WorkUnit],
        dependencies: Dependencies,
        retries: Retries,
        submission: Submission,
        make_ready: Callable[[WorkUnit], None],
        emit: Callable[[RunEvent], None],
        result: RunResult,
    ) -> None:
        self._units, self._dependencies, self._retries, self._submission = units, dependencies, retries, submission
        self._make_ready, self._emit, self._result = make_ready, emit, result
        # (unit, input) if the unit's attempt waited for an input that was committed.
        self._waited: set[tuple[str, str]] = set()
        # Units whose last attempt did not see a committed input.
        self._unseen: set[str] = set()

    def attempt_ended(self, unit: WorkUnit, outcome: Outcome) -> None:
        """Handle the end of an attempt."""
        ended, seconds = self._submission.end(unit)
        if outcome.node is None:
            outcome = replace(outcome, node=ended.node)
        if ended.first is not None:
            _, fraction = ended.first
            self._retries.resumed(unit.id, fraction)
        if outcome.status == "done":
            self._result.ran.append(unit)
            self._emit(UnitFinished(unit.id, seconds))
            for user_id in self._dependencies.commit(unit.id):
                self._make_ready(self._units[user_id])
        elif outcome.status == "waits":
            self._emit(UnitWaits(unit.id, outcome.awaits))
            if self._dependencies.add(unit.id, {outcome.awaits}):
                self._again_with_input(unit, outcome)
            elif self._dependencies.has_failed(outcome.awaits):
                self._block_users(outcome.awaits)
        else:
            self._pause_or_decide(unit, outcome)

    def _again_with_input(self, unit: WorkUnit, outcome: Outcome) -> None:
        """Run the unit again, because the input for which it waited is committed. If it waits for it once more, its node may
        not see it yet, because NFS caches for a while that a file was missing; or the manifest was removed meanwhile, which
        only another run mends."""
        awaited = outcome.awaits
        if (unit.id, awaited) not in self._waited:
            self._waited.add((unit.id, awaited))
            self._make_ready(unit)
            return
        self._unseen.add(unit.id)
        cause = f"{self._units[awaited].label} was committed, but its machine does not see it in the store"
        self._pause_or_decide(unit, Outcome("broken", cause, 4, node=outcome.node))

    def _pause_or_decide(self, unit: WorkUnit, outcome: Outcome) -> None:
        if pause := self._retries.pause(unit.id, outcome):
            self._emit(UnitPaused(unit.id, pause, outcome.cause))
        else:
            self._retry_or_fail(unit, outcome)

    def decide_paused(self) -> None:
        """Retry or fail the units whose pause after a failed attempt is over."""
        for unit_id, outcome in self._retries.ended_pauses():
            self._retry_or_fail(self._units[unit_id], outcome)

    def moved(self, unit: WorkUnit, cause: str) -> None:
        """Queue a unit again, after it was stopped so that it runs on another node."""
        self._submission.end(unit)
        self._make_ready(unit)
        self._emit(UnitRetried(unit.id, "slow", cause))

    def _retry_or_fail(self, unit: WorkUnit, outcome: Outcome) -> None:
        decision = self._retries.decide(unit, outcome)
        outcome = decision.outcome
        if unit.id in self._unseen and not decision.again:
            outcome = replace(outcome, cause=f"{outcome.cause}; if it was removed, run the same command again")
        self._unseen.discard(unit.id)
        if decision.again:
            self._make_ready(unit)
            self._emit(UnitRetried(unit.id, outcome.status, outcome.cause))
        else:
            self._result.failed.append((unit, outcome))
            self._emit(UnitFailed(unit.id, outcome.status, outcome.cause))
            self._block_users(unit.id)

    def _block_users(self, unit_id: str) -> None:
        for user_id in self._dependencies.fail(unit_id):
            self._result.blocked.append(self._units[user_id])
            self._emit(UnitBlocked(user_id))
