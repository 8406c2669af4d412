"""The limits of a run: units at once, silence of a unit, retries. The clock by which they are measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vldd_dist.scheduler.failures.failure_policy import RetryBudget


@dataclass(frozen=True)
class RunLimits:
    """What limits a run; nothing here changes a result.

    Attributes:
        retry_budget: how often a unit may be tried again.
        max_running: the largest number of units at once, at least 1, to leave resources for other runs; None: as many as fit.
        stall_timeout_seconds: a unit that reports nothing for this long is stopped and tried again elsewhere; None: never.
        capacity_timeout_seconds: how long the run waits for machines while none of its units runs. Preempted machines may come
            back, and an autoscaler takes minutes to add machines.
    """

    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    max_running: int | None = None
    stall_timeout_seconds: float | None = None
    capacity_timeout_seconds: float = 3600.0


@dataclass(frozen=True)
class RunClock:
    """The time in seconds, and how to let it pass. Tests have their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


NO_LIMITS, REAL_TIME = RunLimits(), RunClock()
