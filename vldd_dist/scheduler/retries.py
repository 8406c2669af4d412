"""The failed attempts of each unit, and what follows of them by the budget."""

from collections import defaultdict
from collections.abc import Callable

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.failure_policy import PAUSED, RetryBudget, by_what_lives, last_words, may_retry, pause_before_retry


class Retries:
    """Args:
        clock: seconds.

    Attributes:
        avoid: unit id -> the node on which it should not be tried again.
    """

    def __init__(self, budget: RetryBudget, clock: Callable[[], float]) -> None:
        self.avoid: dict[str, str | None] = {}
        self._budget, self._clock = budget, clock
        self._attempts: dict[str, list[Outcome]] = defaultdict(list)
        # Attempts that failed on machines that seem to live, and when it is decided what follows.
        self._paused: dict[str, tuple[float, Outcome]] = {}

    @property
    def waiting(self) -> bool:
        """Whether of any unit it is still to be decided."""
        return bool(self._paused)

    def pause(self, unit_id: str, outcome: Outcome) -> float:
        """Seconds after which `ended_pauses` has it; none when it can be judged at once."""
        seconds = pause_before_retry(outcome, self._attempts[unit_id], self._budget)
        if seconds:
            self._paused[unit_id] = (self._clock() + seconds, outcome)
        return seconds

    def ended_pauses(self) -> list[tuple[str, Outcome]]:
        """Units, by id, that are to be judged now."""
        now = self._clock()
        ended = [(unit_id, outcome) for unit_id, (until, outcome) in self._paused.items() if now >= until]
        for unit_id, _ in ended:
            del self._paused[unit_id]
        return ended

    def judge(self, unit: WorkUnit, outcome: Outcome, lives: Callable[[str], bool]) -> tuple[bool, Outcome]:
        """Whether the unit is tried again, and how its attempt counts, in words for a person.

        Args:
            lives: whether a node, by its id, is still there.
        """
        outcome, *earlier = by_what_lives([outcome, *self._attempts[unit.id]], lives)
        if not may_retry(outcome, earlier, self._budget):
            return False, last_words(outcome, earlier, unit.kind)
        self._attempts[unit.id] = [*earlier, outcome]
        if outcome.status in PAUSED:
            self.avoid[unit.id] = outcome.node
        return True, outcome
