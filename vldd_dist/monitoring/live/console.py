"""The output of a run: a live table on a terminal, plain lines elsewhere, or log lines in JSON."""

import logging

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vldd_dist.events import RunEvent
from vldd_dist.logs import is_json, now_stamp
from vldd_dist.monitoring.live.descriptions import describe_event, describe_figures
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.monitoring.live.time_left import time_left
from vldd_dist.pipeline.stage import title_of
from vldd_dist.reporting.durations import duration

PLAIN_INTERVAL_SECONDS = 20.0
LIVE_INTERVAL_SECONDS = 0.25
# The largest number of running units that are listed, for each stage in the table and for all in the plain lines. The others
# are only counted.
LIVE_UNITS, PLAIN_UNITS = 8, 20
BAR_WIDTH = 20

logger = logging.getLogger(__name__)


class LiveView(View):
    """A table that is redrawn in place: a row for each stage, with a line for each running unit."""

    def __init__(self, console: Console) -> None:
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn_at = -float("inf")

    def begin(self, state: RunState) -> None:
        self.live.start()
        self.refresh(state)

    def event(self, event: RunEvent, state: RunState) -> None:
        # Other events are visible in the table.
        if (message := describe_event(event, state)) and message.important:
            self.live.console.print(Text(message.text, style="yellow"))

    def refresh(self, state: RunState) -> None:
        # Limit the rate: polls end as soon as a unit does, and in a large run drawing takes longer than handling the event.
        if state.clock() - self._drawn_at >= LIVE_INTERVAL_SECONDS:
            self._drawn_at = state.clock()
            self.live.update(self._render(state), refresh=True)

    def end(self) -> None:
        self.live.stop()

    def _render(self, state: RunState) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=False, expand=False)
        for column in ("stage", "bar", "count", "running"):
            table.add_column(column, overflow="fold")
        now, running_by_kind = state.clock(), state.running_by_kind()
        for kind, total in state.total.items():
            running = running_by_kind[kind]
            finished = state.done[kind] + sum(unit.fraction or 0.0 for unit in running)
            filled = round(BAR_WIDTH * finished / total)
            listed = running[:LIVE_UNITS]
            lines = [f"{unit.unit.label}: {describe_figures(unit.figures(now))}".rstrip(": ") for unit in listed]
            lines += [f"and {len(running) - len(listed)} more"] if len(running) > len(listed) else []
            failed = f" ({state.failed[kind]} failed)" if state.failed[kind] else ""
            table.add_row(
                title_of(kind),
                Text("━" * filled, style="green") + Text("━" * (BAR_WIDTH - filled), style="bright_black"),
                f"{state.done[kind]}/{total}{failed}",
                "\n".join(lines),
            )
        return Group(table, Text(f"{duration(now - state.began_at)} so far, {time_left(state)}", style="dim"))


class PlainView(View):
    """Lines for logs, without control characters: each start and end of a unit, and a summary every
    `PLAIN_INTERVAL_SECONDS`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._summarised_at = -float("inf")

    def begin(self, state: RunState) -> None:
        self._summarised_at = state.clock()
        self._print(_at_the_start(state))

    def event(self, event: RunEvent, state: RunState) -> None:
        if message := describe_event(event, state):
            self._print(message.text)

    def refresh(self, state: RunState) -> None:
        now = state.clock()
        if now - self._summarised_at < PLAIN_INTERVAL_SECONDS:
            return
        self._summarised_at = now
        reporting = [unit for unit in state.running.values() if unit.progress]
        for unit in reporting[:PLAIN_UNITS]:
            self._print(f"{unit.unit.label}: {describe_figures(unit.figures(now))}")
        if len(reporting) > PLAIN_UNITS:
            self._print(f"and {len(reporting) - PLAIN_UNITS} more running units")
        self._print(f"{state.done.total()}/{state.total.total()} units, {time_left(state)}")

    def _print(self, text: str) -> None:
        self.console.print(f"{now_stamp()} {text}", markup=False, highlight=False, soft_wrap=True)


class LogView(View):
    """Every event as a log line, for programs (`VLDD_LOG=json`). Progress is in the status and the metrics."""

    def begin(self, state: RunState) -> None:
        logger.info(_at_the_start(state))

    def event(self, event: RunEvent, state: RunState) -> None:
        if message := describe_event(event, state):
            unit = state.units.get(getattr(event, "unit_id", ""))
            fields = {"unit": unit.label if unit else None, "node": getattr(event, "node", None)}
            logger.log(logging.WARNING if message.important else logging.INFO, message.text, extra=fields)


def _at_the_start(state: RunState) -> str:
    total, done = state.total.total(), state.done.total()
    return f"{total} units, {done} done before, {total - done} to run"


def make_view(console: Console) -> View:
    """The view for this console and the log format."""
    if is_json():
        return LogView()
    return LiveView(console) if console.is_terminal else PlainView(console)
