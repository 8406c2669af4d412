"""The failed attempts of each unit, and the decision whether and where it is tried again."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.failures.failure_policy import (
    AVOID_NODE,
    RetryBudget,
    final_outcome,
    may_retry,
    pause_before_retry,
    with_node_losses,
)
from vldd_dist.scheduler.node_avoidance import NodeAvoidance


@dataclass(frozen=True)
class Decision:
    """What follows a failed attempt.

    Attributes:
        again: whether the unit is tried again.
        outcome: of the attempt: `lost` instead of a status in `AVOID_NODE` if the node is gone, and with advice in `cause` if
            the unit is not tried again.
    """

    again: bool
    outcome: Outcome


class Retries:
    """Counts the failed attempts of each unit since its latest checkpoint, keeps the pauses after them, and decides on retries.

    Args:
        clock: in seconds.
        is_alive: whether the node with this id is still part of the cluster.
        avoidance: learns on which nodes units were broken or killed.
    """

    def __init__(
        self,
        budget: RetryBudget,
        clock: Callable[[], float],
        is_alive: Callable[[str], bool],
        avoidance: NodeAvoidance,
    ) -> None:
        self._budget, self._clock, self._is_alive, self._avoidance = budget, clock, is_alive, avoidance
        self._attempts: dict[str, list[Outcome]] = defaultdict(list)
        # Unit id -> the fraction of the unit at which an attempt has resumed it.
        self._resumed_at: dict[str, float] = {}
        # Unit id -> (clock time at which its pause ends, outcome of its last attempt).
        self._paused: dict[str, tuple[float, Outcome]] = {}

    @property
    def any_paused(self) -> bool:
        return bool(self._paused)

    def resumed(self, unit_id: str, fraction: float) -> None:
        """Record the fraction of the unit at which the attempt that has just ended began. Failures before a checkpoint from
        which it resumed no longer count."""
        if fraction > self._resumed_at.setdefault(unit_id, fraction):
            self._resumed_at[unit_id] = fraction
            self._attempts.pop(unit_id, None)

    def pause(self, unit_id: str, outcome: Outcome) -> float:
        """Start the pause after a failed attempt. Returns its length in seconds; 0: no pause, so call `decide` now."""
        seconds = pause_before_retry(outcome, self._attempts[unit_id], self._budget)
        if seconds:
            self._paused[unit_id] = (self._clock() + seconds, outcome)
        return seconds

    def ended_pauses(self) -> list[tuple[str, Outcome]]:
        """Remove and return the units whose pause is over, for which `decide` must now be called."""
        now = self._clock()
        ended = [(unit_id, outcome) for unit_id, (until, outcome) in self._paused.items() if now >= until]
        for unit_id, _ in ended:
            del self._paused[unit_id]
        return ended

    def decide(self, unit: WorkUnit, outcome: Outcome) -> Decision:
        """Decide whether the unit is tried again after an attempt with this outcome."""
        outcome, *earlier = with_node_losses([outcome, *self._attempts[unit.id]], self._is_alive)
        if not may_retry(outcome, earlier, self._budget):
            return Decision(again=False, outcome=final_outcome(outcome, earlier, unit.kind))
        self._attempts[unit.id] = [*earlier, outcome]
        if outcome.status in AVOID_NODE and outcome.node is not None:
            match outcome.status:
                case "killed":
                    self._avoidance.killed_or_slow_on(unit.id, outcome.node)
                case "outage":
                    self._avoidance.outage_on(unit.id, outcome.node)
                case _:
                    self._avoidance.broken_on(unit.id, outcome.node)
        return Decision(again=True, outcome=outcome)
