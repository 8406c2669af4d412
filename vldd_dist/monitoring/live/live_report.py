"""The report while a run goes on: it is rewritten about every minute, in a separate thread."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Protocol

from vldd_dist.artifacts.runs.run_status import RunStatus
from vldd_dist.errors import VlddError
from vldd_dist.monitoring.live.descriptions import describe_running
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.monitoring.live.status import StatusWriter, stages_of
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.stage import title_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.reporting.data import RunProgress, Stage
from vldd_dist.reporting.tables.table import Table

# The time between the starts of two reports: at least REPORT_SECONDS, and at least PAUSE_FACTOR times as long as writing the
# last one took.
REPORT_SECONDS, PAUSE_FACTOR = 60, 20
# The largest number of running units, and of latest notices, in a report.
LISTED = 12

logger = logging.getLogger(__name__)


class ReportWriter(Protocol):
    """Writes the report of an experiment or of a study."""

    @property
    def page(self) -> str:
        """Key of the page in the store."""
        ...

    def write(self, progress: RunProgress | None = None, failures: Sequence[tuple[WorkUnit, Outcome]] = ()) -> list[Table]:
        """Write the report, and return its tables. Raises StoreError."""
        ...


class LiveReport(View):
    """A view that rewrites the report. If a report cannot be written, the run continues.

    Args:
        status: the view with the run's status, which must end before this view.
    """

    def __init__(self, reporter: ReportWriter, status: StatusWriter) -> None:
        self._reporter, self._status = reporter, status
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._began_at, self._seconds = -float("inf"), 0.0

    def refresh(self, state: RunState) -> None:
        if self._writing is not None and not self._writing.done():
            return
        if state.clock() - self._began_at >= max(REPORT_SECONDS, PAUSE_FACTOR * self._seconds):
            self._began_at = state.clock()
            self._writing = self._pool.submit(self._write, self._status.now(state, "running"), state.clock)

    def end(self) -> None:
        """Write a report if the run was interrupted, or an error ended it. If it went to its end, the caller has the result and
        writes the report; with failed units, which look the same here, it is then written twice. If the last status could not
        be written, neither could the report, and the user would wait for another minute."""
        self._pool.shutdown()
        state = self._status.run_state
        if state is not None and self._status.ended_as in ("stopped", "failed") and self._status.is_written:
            self._write(self._status.now(state, self._status.ended_as), state.clock)

    def _write(self, status: RunStatus, clock: Callable[[], float]) -> None:
        began_at = clock()
        try:
            self._reporter.write(progress_of(status))
        except VlddError as error:
            logger.warning("the report was not written: %s", error)
        except Exception:  # A defect, perhaps of a plug-in. Nothing else reads the exception of this thread.
            logger.exception("the report was not written")
        self._seconds = clock() - began_at


def progress_of(status: RunStatus) -> RunProgress:
    """The status of a run in the form that a report shows."""
    listed = [(unit.label, describe_running(unit.event)) for unit in status.running[:LISTED]]
    if len(status.running) > LISTED:
        listed.append((f"and {len(status.running) - LISTED} more", ""))
    return RunProgress(
        state=status.state,
        written_at=datetime.fromisoformat(status.written_at).strftime("%Y-%m-%d %H:%M:%S %Z"),
        stages=[
            Stage(name=title_of(kind), done=stage.done, failed=stage.failed, total=stage.total)
            for kind, stage in stages_of(status)
        ],
        running=listed,
        time_left=status.time_left,
        notices=status.notices[-LISTED:],
    )
