"""The failed attempts of each unit, and whether and where it is tried again."""

from collections import defaultdict
from collections.abc import Callable

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


class Retries:
    """Args:
        clock: seconds.

    Attributes:
        avoid: unit id -> node on which it should not run again.
    """

    def __init__(self, budget: RetryBudget, clock: Callable[[], float]) -> None:
        self.avoid: dict[str, str | None] = {}
        self._budget, self._clock = budget, clock
        self._attempts: dict[str, list[Outcome]] = defaultdict(list)
        # Unit id -> when its pause ends, and how its attempt ended.
        self._paused: dict[str, tuple[float, Outcome]] = {}

    @property
    def any_paused(self) -> bool:
        return bool(self._paused)

    def pause(self, unit_id: str, outcome: Outcome) -> float:
        """Begin the pause after a failed attempt. Returns its seconds; 0: there is none, call `decide` now."""
        seconds = pause_before_retry(outcome, self._attempts[unit_id], self._budget)
        if seconds:
            self._paused[unit_id] = (self._clock() + seconds, outcome)
        return seconds

    def ended_pauses(self) -> list[tuple[str, Outcome]]:
        """Units whose pause is over: `decide` is due."""
        now = self._clock()
        ended = [(unit_id, outcome) for unit_id, (until, outcome) in self._paused.items() if now >= until]
        for unit_id, _ in ended:
            del self._paused[unit_id]
        return ended

    def decide(self, unit: WorkUnit, outcome: Outcome, is_alive: Callable[[str], bool]) -> tuple[bool, Outcome]:
        """Whether the unit is tried again, and the outcome as it counts: with the node's loss considered, and advice in
        `cause` if it is the last.

        Args:
            is_alive: whether a node, by its id, is still part of the cluster.
        """
        outcome, *earlier = with_node_losses([outcome, *self._attempts[unit.id]], is_alive)
        if not may_retry(outcome, earlier, self._budget):
            return False, final_outcome(outcome, earlier, unit.kind)
        self._attempts[unit.id] = [*earlier, outcome]
        if outcome.status in AVOID_NODE:
            self.avoid[unit.id] = outcome.node
        return True, outcome
