"""The report while a run goes on: written anew now and then, beside the coordinator's loop."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

from vldd_dist.artifacts.run_status import RunStatus
from vldd_dist.errors import VlddError
from vldd_dist.monitoring.progress import STAGE_NAMES, ProgressBoard, describe_event
from vldd_dist.monitoring.report import Reporter
from vldd_dist.monitoring.status import StatusWriter
from vldd_dist.reporting.data import Progress, Stage

# Between two reports: so long at least, and so many times as long as one takes.
REPORT_SECONDS, TIMES = 60, 20
# Of the units at work, and of the latest notices.
SHOWN = 12

logger = logging.getLogger(__name__)


class LiveReport:
    """A progress view. A report that cannot be written stops no run: its units find out by themselves.

    Args:
        status: knows the run's state; it ends before this.
    """

    def __init__(self, reporter: Reporter, status: StatusWriter, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter, self._status, self._clock = reporter, status, clock
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._began, self._taken = -float("inf"), 0.0

    def begin(self, board: ProgressBoard) -> None:
        """Nothing is done that was not reported before."""

    def line(self, text: str) -> None:
        """The status tells."""

    def notice(self, text: str) -> None:
        """The status tells."""

    def refresh(self, board: ProgressBoard) -> None:
        if self._writing is not None and not self._writing.done():
            return
        if self._clock() - self._began >= max(REPORT_SECONDS, TIMES * self._taken):
            self._began = self._clock()
            self._writing = self._pool.submit(self._write, self._status.now(board, "running"))

    def end(self) -> None:
        """Say that a run was interrupted; one that ended by itself is reported by whoever knows its result."""
        self._pool.shutdown()
        if self._status.board is not None and self._status.state == "stopped":
            self._write(self._status.now(self._status.board, "stopped"))

    def _write(self, status: RunStatus) -> None:
        began = self._clock()
        try:
            self._reporter.write(progress_of(status))
        except VlddError as error:
            logger.warning("the report was not written: %s", error)
        self._taken = self._clock() - began


def progress_of(status: RunStatus) -> Progress:
    """For people."""
    shown = [(unit.label, describe_event(unit.event) or "began") for unit in status.running[:SHOWN]]
    if len(status.running) > SHOWN:
        shown.append((f"and {len(status.running) - SHOWN} more", ""))
    return Progress(
        state=status.state,
        written_at=datetime.fromisoformat(status.written_at).strftime("%Y-%m-%d %H:%M:%S %Z"),
        stages=[
            Stage(name=STAGE_NAMES[kind], done=stage.done, failed=stage.failed, total=stage.total)
            for kind, stage in status.stages.items()
        ],
        running=shown,
        time_left=status.time_left,
        notices=status.notices[-SHOWN:],
    )
