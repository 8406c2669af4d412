"""A run's status in the store, which `vldd status` prints."""

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from vldd_dist.artifacts.runs.run_status import RunStatus, StageStatus, UnitStatus, known_figures, write_status
from vldd_dist.control_characters import one_line
from vldd_dist.errors import StoreError
from vldd_dist.events import RunEvent
from vldd_dist.monitoring.live.descriptions import describe_event, describe_running
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.monitoring.live.time_left import time_left
from vldd_dist.pipeline.stage import position_of, title_of
from vldd_dist.reporting.durations import duration
from vldd_dist.store.store import Store

WRITE_SECONDS = 15
# The number of latest notices that are kept.
MAX_NOTICES = 20
# If the status of a running run is older than this, its driver has died or cannot write.
OUTDATED_SECONDS = 4 * WRITE_SECONDS
# What to say about such a run.
DIED = "its driver has died or cannot reach the store, or this machine's clock is ahead of the driver's"

State = Literal["running", "done", "failed", "stopped"]

logger = logging.getLogger(__name__)


class StatusWriter(View):
    """A view that writes `artifacts.runs.run_status` every `WRITE_SECONDS`, in a separate thread, and once more at the end.

    If the status cannot be written, the run continues: if the store is broken, units that write to it fail anyway.

    Args:
        run: which run of the experiment it is (`artifacts.runs.run_units`).

    Attributes:
        run_state: the state that it follows; None before `announce`.
        ended_as: how the run ended; must be set before `end`.
        is_written: whether the latest status was written.
    """

    def __init__(self, store: Store, experiment: str, run: str) -> None:
        self.store, self.experiment, self.run = store, experiment, run
        self.notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self.run_state: RunState | None = None
        self.ended_as: State = "stopped"
        self.is_written = False
        self._written_at = -float("inf")
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def announce(self, state: RunState) -> None:
        """Write that the run is running. To be called before the committed units are listed: from then on the run relies on
        them, and `vldd gc` keeps them only for a run that has a status."""
        self.run_state = state
        self._write(self.now(state, "running"))

    def begin(self, state: RunState) -> None:
        self.run_state = state
        # The units are known now; until the next refresh Ray has to start.
        self.refresh(state)

    def event(self, event: RunEvent, state: RunState) -> None:
        if (message := describe_event(event, state)) and message.important:
            self.notices.append(message.text)

    def refresh(self, state: RunState) -> None:
        # If the store is slow, statuses are written less often, and the loop does not wait.
        if state.clock() - self._written_at >= WRITE_SECONDS and (self._writing is None or self._writing.done()):
            self._written_at = state.clock()
            self._writing = self._pool.submit(self._write, self.now(state, "running"))

    def end(self) -> None:
        """Write the final status."""
        self._pool.shutdown()
        if self.run_state is not None:
            self._write(self.now(self.run_state, self.ended_as))

    def now(self, run: RunState, state: State) -> RunStatus:
        """The status at this moment.

        Args:
            state: running, or how the run ended.
        """
        now = run.clock()
        return RunStatus(
            experiment=self.experiment,
            run=self.run,
            state=state,
            stages={
                kind: StageStatus(total=total, done=run.done[kind], failed=run.failed[kind])
                for kind, total in run.total.items()
            },
            running=[
                UnitStatus(
                    label=running.unit.label,
                    seconds=round(now - running.started_at, 1),
                    event=known_figures(running.figures(now)),
                )
                for running in run.running.values()
            ],
            time_left=str(time_left(run)),
            notices=list(self.notices),
        )

    def _write(self, status: RunStatus) -> None:
        try:
            self.is_written = False
            write_status(self.store, status)
            self.is_written = True
        except StoreError as error:
            logger.warning("the run's status was not written: %s", error)


def is_outdated(status: RunStatus) -> bool:
    """Whether the run's driver has died or cannot write."""
    return status.state == "running" and status.age_seconds > OUTDATED_SECONDS


def status_document(status: RunStatus) -> dict[str, Any]:
    """The status for programs: its fields, its age, and whether it is outdated."""
    fields = status.model_dump(mode="json", exclude={"schema_version", "kind"})
    return fields | {"age_seconds": round(status.age_seconds, 1), "outdated": is_outdated(status)}


def shown_statuses(statuses: Sequence[RunStatus]) -> list[RunStatus]:
    """Those to show. For each name: the runs that are running, also if their drivers have died, and if no driver lives, the run
    that was written last. So ended attempts with other settings do not pile up."""
    of_name: dict[str, list[RunStatus]] = {}
    for status in statuses:
        of_name.setdefault(status.experiment, []).append(status)
    shown = []
    for runs in of_name.values():
        running = [status for status in runs if status.state == "running"]
        latest = [] if any(not is_outdated(status) for status in running) else [max(runs, key=lambda run: run.moment)]
        shown += [status for status in runs if status in running or status in latest]
    return shown


def stages_of(status: RunStatus) -> list[tuple[str, StageStatus]]:
    """(kind, counts) of each stage in the order of the pipeline. A stored status has them in alphabetical order. A kind that
    this version does not know comes last."""
    return sorted(status.stages.items(), key=lambda item: position_of(item[0]))


def describe_status(status: RunStatus, several: bool = False) -> str:
    """The status for people: counts, running units, notices. Line breaks in stored texts are removed.

    Args:
        several: whether other runs of the same name are shown too, so that the run must be named.
    """
    # Negative if this machine's clock is behind the driver's.
    age = max(0.0, status.age_seconds)
    name = f"{status.experiment} (run {status.run})" if several else status.experiment
    lines = [f"{name}: {status.state}, written {age:.0f} s ago"]
    if status.state == "running":
        lines[0] += f", {status.time_left}"
        if is_outdated(status):
            lines.append(f"  {DIED}: run the same command again to resume")
    for kind, stage in stages_of(status):
        failed = f", {stage.failed} failed" if stage.failed else ""
        lines.append(f"  {title_of(kind):<20} {stage.done}/{stage.total} done{failed}")
    lines += [f"  {unit.label}: {describe_running(unit.event)} ({duration(unit.seconds)})" for unit in status.running]
    lines += [f"  ! {notice}" for notice in status.notices]
    return "\n".join(map(one_line, lines))
