"""The timeout of a run that waits for machines while none of its units runs, and the notice to the user."""

from collections.abc import Callable

from vldd_dist.errors import InterruptedRun
from vldd_dist.scheduler.submitting.shortage import Shortage


class CapacityTimeout:
    """The timeout of a run that waits for machines.

    Args:
        notice: shows a line of text to the user.
        clock: in seconds.
        seconds: the timeout.
    """

    def __init__(self, notice: Callable[[str], None], clock: Callable[[], float], seconds: float) -> None:
        self._notice, self._clock, self._seconds = notice, clock, seconds
        self._awaited: str | None = None
        self._since = 0.0
        self._notified = False

    def reset(self) -> None:
        """Stop waiting, because a unit runs or has just ended."""
        self._awaited = None

    def wait(self, shortage: Shortage, notice_after: float = 0.0) -> None:
        """Continue to wait. Call it at every poll while no unit runs; it does not block.

        Args:
            shortage: why no unit runs; the timeout starts again when what is awaited changes.
            notice_after: seconds before the user is told, for waits that usually end by themselves.

        Raises:
            InterruptedRun: the timeout has passed.
        """
        if shortage.awaited != self._awaited:
            self._awaited, self._since, self._notified = shortage.awaited, self._clock(), False
        waited = self._clock() - self._since
        if waited >= notice_after and not self._notified:
            self._notified = True
            self._notice(shortage.notice)
        # A wait that usually ends by itself, such as that for a worker to start, is not given up before the user is told of it.
        if shortage.times_out and waited >= max(self._seconds, notice_after):
            ended = f"{shortage.problem}, and {shortage.nothing_came} within {self._seconds / 60:g} minutes"
            raise InterruptedRun(
                f"{ended}: finished units are kept in the store; add machines, use larger ones, lower the resources of this "
                "unit or raise --wait-hours, then run the same command again"
            )
