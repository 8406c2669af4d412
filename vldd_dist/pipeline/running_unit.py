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
        progress: its latest progress report.
    """

    unit: WorkUnit
    started_at: float
    heard_at: float
    worker_started: bool = False
    node: str | None = None
    progress: Progress | None = None

    def report(self, reported: UnitReported, now: float) -> None:
        """Record a report of the unit."""
        self.heard_at, self.worker_started = now, True
        self.node = reported.node or self.node
        if isinstance(reported.report, Progress):
            self.progress = reported.report

    @property
    def speed(self) -> float | None:
        """Samples or steps per second in its latest progress report; None if it has reported none."""
        return self.progress.speed if self.progress else None

    @property
    def fraction(self) -> float | None:
        """Its reported progress in 0..1; None if it has reported none."""
        return self.progress.done / self.progress.total if self.progress and self.progress.total else None

    def figures(self, now: float) -> dict[str, Any]:
        """The fields of its latest progress report that are set, and `silent_seconds`, the time since its last report, if its
        worker has started."""
        fields = asdict(self.progress) if self.progress else {}
        reported = {name: value for name, value in fields.items() if value is not None}
        return reported | {"silent_seconds": round(now - self.heard_at, 1)} if self.worker_started else reported
