"""The timeout of a run that waits for machines while none of its units runs, and the notice to a person."""

from collections.abc import Callable

from vldd_dist.errors import InterruptedRun

# Preempted machines may come back, and an autoscaler takes minutes to add some.
TIMEOUT_SECONDS = 3600.0


class CapacityTimeout:
    """Args:
    notice: tells a person.
    clock: seconds.
    """

    def __init__(self, notice: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._notice, self._clock = notice, clock
        self._awaited: str | None = None
        self._since = 0.0
        self._told = False

    def reset(self) -> None:
        """A unit runs, or just ended."""
        self._awaited = None

    def wait(self, problem: str, awaited: str, in_vain: str, notice_after: float = 0.0) -> None:
        """To be called at every poll while no unit runs; does not block.

        Args:
            problem: why none runs.
            awaited: what is waited for; the timeout starts again when it changes.
            in_vain: what did not happen, for the error.
            notice_after: seconds before a person is told, for waits that usually end by themselves.

        Raises:
            InterruptedRun: `TIMEOUT_SECONDS` have passed.
        """
        if awaited != self._awaited:
            self._awaited, self._since, self._told = awaited, self._clock(), False
        waited = self._clock() - self._since
        if waited >= notice_after and not self._told:
            self._told = True
            self._notice(f"{problem}: waiting for {awaited}")
        if waited >= TIMEOUT_SECONDS:
            raise InterruptedRun(
                f"{problem}, and {in_vain} within {TIMEOUT_SECONDS / 60:g} minutes: what was committed is in the store; run "
                "the same command again when there are more or larger machines, or lower what the unit asks for"
            )
