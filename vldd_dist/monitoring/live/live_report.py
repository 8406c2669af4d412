"""The report while a run goes on: written again every minute or so, on a thread of its own."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Protocol

from vldd_dist.artifacts.run_status import RunStatus
from vldd_dist.errors import VlddError
from vldd_dist.events import RunEvent
from vldd_dist.monitoring.live.descriptions import describe_figures
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.monitoring.live.status import StatusWriter
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.stage import title_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.reporting.data import Progress, Stage
from vldd_dist.reporting.table import Table

# The pause between two reports: at least REPORT_SECONDS, and at least PAUSE_FACTOR times what the last report took.
REPORT_SECONDS, PAUSE_FACTOR = 60, 20
# Running units and latest notices that are listed.
LISTED = 12

logger = logging.getLogger(__name__)


class Reports(Protocol):
    """Makes the report of what runs: an experiment's or a study's."""

    @property
    def page(self) -> str:
        """Key of the page in the store."""
        ...

    def write(self, progress: Progress | None = None, failures: Sequence[tuple[WorkUnit, Outcome]] = ()) -> list[Table]:
        """Write it, and return its tables. Raises StoreError."""
        ...


class LiveReport:
    """A view. A report that cannot be written does not stop the run.

    Args:
        status: knows the run's state; it must end before this view.
    """

    def __init__(self, reporter: Reports, status: StatusWriter, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter, self._status, self._clock = reporter, status, clock
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._began_at, self._seconds = -float("inf"), 0.0

    def begin(self, state: RunState) -> None:
        """Nothing is done that was not reported before."""

    def event(self, event: RunEvent, state: RunState) -> None:
        """Notices come from the status."""

    def refresh(self, state: RunState) -> None:
        if self._writing is not None and not self._writing.done():
            return
        if self._clock() - self._began_at >= max(REPORT_SECONDS, PAUSE_FACTOR * self._seconds):
            self._began_at = self._clock()
            self._writing = self._pool.submit(self._write, self._status.now(state, "running"))

    def end(self) -> None:
        """Report an interruption. The report of a run that ended by itself is written by the caller, who knows its result."""
        self._pool.shutdown()
        if self._status.run is not None and self._status.state == "stopped":
            self._write(self._status.now(self._status.run, "stopped"))

    def _write(self, status: RunStatus) -> None:
        began_at = self._clock()
        try:
            self._reporter.write(progress_of(status))
        except VlddError as error:
            logger.warning("the report was not written: %s", error)
        self._seconds = self._clock() - began_at


def progress_of(status: RunStatus) -> Progress:
    """A status as the report shows it."""
    listed = [(unit.label, describe_figures(unit.event) or "started") for unit in status.running[:LISTED]]
    if len(status.running) > LISTED:
        listed.append((f"and {len(status.running) - LISTED} more", ""))
    return Progress(
        state=status.state,
        written_at=datetime.fromisoformat(status.written_at).strftime("%Y-%m-%d %H:%M:%S %Z"),
        stages=[
            Stage(name=title_of(kind), done=stage.done, failed=stage.failed, total=stage.total)
            for kind, stage in status.stages.items()
        ],
        running=listed,
        time_left=status.time_left,
        notices=status.notices[-LISTED:],
    )
