"""A run's progress beyond its terminal: into the store, and to trackers."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

from vldd_dist.artifacts.run_status import RunningUnit, RunStatus, StageStatus, known_event, write_status
from vldd_dist.control_characters import one_line
from vldd_dist.errors import StoreError
from vldd_dist.monitoring.progress import STAGE_NAMES, ProgressBoard, ProgressView, describe_event
from vldd_dist.store.store import Store

WRITE_SECONDS = 15
NOTICES = 20
SILENT_SECONDS = 4 * WRITE_SECONDS

State = Literal["running", "done", "failed", "stopped"]

logger = logging.getLogger(__name__)


class SeveralViews:
    """One board, several views."""

    def __init__(self, views: Sequence[ProgressView]) -> None:
        self.views = views

    def begin(self, board: ProgressBoard) -> None:
        for view in self.views:
            view.begin(board)

    def line(self, text: str) -> None:
        for view in self.views:
            view.line(text)

    def notice(self, text: str) -> None:
        for view in self.views:
            view.notice(text)

    def refresh(self, board: ProgressBoard) -> None:
        for view in self.views:
            view.refresh(board)

    def end(self) -> None:
        for view in self.views:
            view.end()


class StatusWriter:
    """Writes `artifacts.run_status` now and then, beside the coordinator's loop, and a last time at the end.

    A store that refuses a status does not stop the run: its units find out by themselves.
    """

    def __init__(self, store: Store, experiment: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.experiment, self.clock = store, experiment, clock
        self.notices: deque[str] = deque(maxlen=NOTICES)
        self.board: ProgressBoard | None = None
        self.state: State = "stopped"
        self._last = -float("inf")
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def begin(self, board: ProgressBoard) -> None:
        self.board = board

    def line(self, text: str) -> None:
        """The counts tell."""

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def refresh(self, board: ProgressBoard) -> None:
        # A slow store makes statuses rarer, not the loop slower.
        if self.clock() - self._last >= WRITE_SECONDS and (self._writing is None or self._writing.done()):
            self._last = self.clock()
            self._writing = self._pool.submit(self._write, self.now(board, "running"))

    def end(self) -> None:
        """Write how it ended: `state`, which whoever knows has set."""
        self._pool.shutdown()
        if self.board is not None:
            self._write(self.now(self.board, self.state))

    def now(self, board: ProgressBoard, state: State) -> RunStatus:
        """Of this moment."""
        return RunStatus(
            experiment=self.experiment,
            state=state,
            stages={
                kind: StageStatus(total=total, done=board.done[kind], failed=board.lost[kind])
                for kind, total in board.total.items()
            },
            running=[
                RunningUnit(
                    label=unit.label,
                    seconds=round(board.clock() - since, 1),
                    event=known_event(board.event_of(unit_id)),
                )
                for unit_id, (unit, since) in board.running.items()
            ],
            time_left=str(board.time_left()),
            notices=list(self.notices),
        )

    def _write(self, status: RunStatus) -> None:
        try:
            write_status(self.store, status)
        except StoreError as error:
            logger.warning("the run's status was not written: %s", error)


def describe_status(status: RunStatus) -> str:
    """For a person: counts, what runs, what went wrong. A line each, whatever the texts in it hold."""
    age = status.age_seconds
    lines = [f"{status.experiment}: {status.state}, written {age:.0f} s ago"]
    if status.state == "running":
        lines[0] += f", {status.time_left}"
        if age > SILENT_SECONDS:
            lines.append("  its driver is gone or cannot reach the store: run it again to go on")
    # A stored one has its stages by their names; one that another version knows comes last.
    order = {kind: position for position, kind in enumerate(STAGE_NAMES)}
    for kind, stage in sorted(status.stages.items(), key=lambda item: order.get(item[0], len(order))):
        failed = f", {stage.failed} failed" if stage.failed else ""
        lines.append(f"  {STAGE_NAMES.get(kind, kind):<20} {stage.done}/{stage.total} done{failed}")
    lines += [f"  {unit.label}: {describe_event(unit.event) or 'began'} ({unit.seconds:.0f} s)" for unit in status.running]
    lines += [f"  ! {notice}" for notice in status.notices]
    return "\n".join(map(one_line, lines))
