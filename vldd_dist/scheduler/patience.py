"""How long a run waits while none of its units is at work, and when a person hears of it."""

from collections.abc import Callable

from vldd_dist.errors import InterruptedRun

# Machines that were there and are gone may come back, as preempted ones do, and an autoscaler's take minutes to come.
PATIENCE_SECONDS = 3600.0


class Patience:
    """Args:
    notice: tells a person.
    clock: seconds.
    """

    def __init__(self, notice: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._notice, self._clock = notice, clock
        self._hope: str | None = None
        self._since = 0.0
        self._told = False

    def no_more(self) -> None:
        """A unit is at work."""
        self._hope = None

    def wait(self, trouble: str, hope: str, in_vain: str, told_after: float = 0.0) -> None:
        """To be called again and again while it lasts.

        Args:
            hope: what is waited for; another one is waited for anew.
            told_after: seconds; what mostly lasts no longer needs no telling.

        Raises:
            InterruptedRun: it has lasted for `PATIENCE_SECONDS`.
        """
        if hope != self._hope:
            self._hope, self._since, self._told = hope, self._clock(), False
        waited = self._clock() - self._since
        if waited >= told_after and not self._told:
            self._told = True
            self._notice(f"{trouble}: waiting for {hope}")
        if waited >= PATIENCE_SECONDS:
            raise InterruptedRun(
                f"{trouble}, and {in_vain} within {PATIENCE_SECONDS / 60:g} minutes: what was committed is in the store; start "
                "the same command again when there are more machines or larger ones, or lower what it asks for"
            )
