"""A running unit and what its reports say, for the scheduler and for those who show a run."""

from dataclasses import asdict, dataclass
from typing import Any

from vldd_dist.events import Progress, UnitReported
from vldd_dist.pipeline.work_unit import WorkUnit


@dataclass
class RunningUnit:
    """A running unit. Times are in seconds of the run's clock.

    Attributes:
        started_at: when its resources were reserved.
        heard_at: time of its last report; `started_at` before its first.
        worker_started: whether it has reported, so that its worker must be running; before that, the worker may still be
            waiting for a machine.
        node: id of the node on which it runs; known once it has reported.
        progress, progress_at: its latest progress report, and the time of it.
        first: (time, fraction) of the first progress report with a known total; None before it. A resumed unit starts at the
            fraction that earlier attempts reached.
    """

    unit: WorkUnit
    started_at: float
    heard_at: float
    worker_started: bool = False
    node: str | None = None
    progress: Progress | None = None
    progress_at: float | None = None
    first: tuple[float, float] | None = None

    def report(self, reported: UnitReported, now: float) -> None:
        """Record a report of the unit."""
        self.heard_at, self.worker_started = now, True
        self.node = reported.node or self.node
        if isinstance(reported.report, Progress):
            self.progress, self.progress_at = reported.report, now
            if self.first is None and self.fraction is not None:
                self.first = now, self.fraction

    @property
    def speed(self) -> float | None:
        """Samples or steps per second in its latest progress report; None if it has reported none."""
        return self.progress.speed if self.progress else None

    @property
    def fraction(self) -> float | None:
        """Its reported progress in 0..1; None if it has reported none."""
        return self.progress.done / self.progress.total if self.progress and self.progress.total else None

    def rate(self, until: float) -> float | None:
        """The fraction of the unit that this attempt did per second until this time, from its first report on; None before a
        report of more progress."""
        if self.first is None or self.fraction is None:
            return None
        (first_at, before), fraction = self.first, self.fraction
        return (fraction - before) / (until - first_at) if fraction > before and until > first_at else None

    def whole_seconds(self, seconds: float) -> float:
        """The duration that the unit would have had in a single attempt, if this attempt ended it after `seconds`."""
        if self.first is None or self.progress_at is None or not (rate := self.rate(self.progress_at)):
            return seconds
        first_at, before = self.first
        # What was done at the first report may have been done by this attempt, in the time before the report.
        return seconds + max(before / rate - (first_at - self.started_at), 0.0)

    def figures(self, now: float) -> dict[str, Any]:
        """The fields of its latest progress report that are set, and `silent_seconds`, the time since its last report, if its
        worker has started."""
        fields = asdict(self.progress) if self.progress else {}
        reported = {name: value for name, value in fields.items() if value is not None}
        return reported | {"silent_seconds": round(now - self.heard_at, 1)} if self.worker_started else reported
