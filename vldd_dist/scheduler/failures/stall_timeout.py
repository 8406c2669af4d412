"""Finds units whose worker has reported nothing for longer than a timeout and is therefore assumed to hang. A unit whose worker
has not started yet waits for a machine."""

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.running import RunningUnits


class StallTimeout:
    """The timeout of a unit that reports nothing.

    Args:
        seconds: the timeout; None: units are never assumed to hang.
    """

    def __init__(self, seconds: float | None, running: RunningUnits) -> None:
        self._seconds, self._running = seconds, running

    def stalled(self) -> list[tuple[WorkUnit, str]]:
        """The units that should be stopped, each with the reason."""
        if self._seconds is None:
            return []
        now = self._running.clock()
        silences = [(running.unit, now - running.heard_at) for running in self._running if running.worker_started]
        return [
            (unit, f"it has reported nothing for {silence / 60:.0f} min")
            for unit, silence in silences
            if silence >= self._seconds
        ]
