"""What a person sees while units run: one live table on a terminal, plain lines elsewhere."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vldd_dist.pipeline.work_unit import WorkUnit

PLAIN_INTERVAL_SECONDS = 20.0
# A unit that reports nothing for so long is shown as silent: the longest step between two reports mostly takes less.
SILENT_SECONDS = 120.0
LIVE_INTERVAL_SECONDS = 0.25
# Of the units that run, of a stage in the table and of all in the log; the others are counted.
LIVE_UNITS, PLAIN_UNITS = 8, 20

STAGE_NAMES = {
    "dataset": "dataset",
    "image_weights": "image weights",
    "caption_embeddings": "caption embeddings",
    "expert": "experts",
    "features": "features",
    "coreset": "coresets",
    "distillation": "distillations",
    "evaluation": "evaluations",
    "publication": "publications",
}


@dataclass(frozen=True)
class TimeLeft:
    """An estimate; where a kind of unit to come has not been seen yet, a lower bound."""

    seconds: float
    seen_all: bool

    def __str__(self) -> str:
        if not self.seen_all and self.seconds < 1:
            return "time left not known yet"
        minutes, rest = divmod(round(self.seconds), 60)
        words = f"{minutes} min {rest:02d} s left" if minutes else f"{rest} s left"
        return ("about " if self.seen_all else "more than ") + words


class ProgressBoard:
    """The state of a run in numbers, on an injected clock (seconds); views render it.

    Attributes:
        capacity, gpus: CPUs and GPUs at hand, by which the estimate of the time left divides.
        max_running: units that may run at once; none: as many as fit.
    """

    def __init__(self, view: "ProgressView", clock: Callable[[], float] = time.monotonic) -> None:
        self.view, self.clock = view, clock
        self.capacity, self.gpus = 1.0, 0.0
        self.max_running: int | None = None
        self.total: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.running: dict[str, tuple[WorkUnit, float]] = {}
        self.latest: dict[str, dict[str, Any]] = {}
        # When each running unit was last heard of.
        self.heard_at: dict[str, float] = {}
        # Of the units that this run has done, by kind: how many, and their seconds together.
        self.timed: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        # Kind -> one of its units: all of a kind ask for the same.
        self.one_of: dict[str, WorkUnit] = {}
        self.began = clock()

    def begin(self, units: list[WorkUnit], done: set[str]) -> None:
        self.began = self.clock()
        # Stages in the order in which they begin.
        order = {kind: position for position, kind in enumerate(STAGE_NAMES)}
        for unit in sorted(units, key=lambda unit: order[unit.kind]):
            self.total[unit.kind] += 1
            self.done[unit.kind] += unit.id in done
            self.one_of[unit.kind] = unit
        self.view.begin(self)

    def started(self, unit: WorkUnit) -> None:
        self.running[unit.id] = (unit, self.clock())
        self.heard_at[unit.id] = self.clock()
        self.view.line(f"{unit.label}: started")

    def event(self, unit_id: str, event: dict[str, Any]) -> None:
        if unit_id not in self.running:
            return
        self.heard_at[unit_id] = self.clock()
        if "notice" in event:
            self.view.notice(f"{self.running[unit_id][0].label}: {event['notice']}")
        else:
            self.latest[unit_id] = event

    def finished(self, unit: WorkUnit) -> None:
        seconds = self._stop(unit)
        self.timed[unit.kind] += 1
        self.seconds[unit.kind] += seconds
        self.done[unit.kind] += 1
        self.view.line(f"{unit.label}: done in {seconds:.0f} s")

    def paused(self, unit: WorkUnit, seconds: float) -> None:
        """Its attempt failed; whether it is tried again, and why, is told after so long."""
        self._stop(unit)
        self.view.line(f"{unit.label}: its attempt ended, what follows is decided in {seconds:g} s")

    def retried(self, unit: WorkUnit, cause: str) -> None:
        self._stop(unit)
        self.view.notice(f"{unit.label}: tried again, {cause}")

    def waits(self, unit: WorkUnit, needed: WorkUnit) -> None:
        self._stop(unit)
        self.view.line(f"{unit.label}: waits for {needed.label}")

    def failed(self, unit: WorkUnit, cause: str) -> None:
        self._stop(unit)
        self.lost[unit.kind] += 1
        self.view.notice(f"{unit.label}: FAILED, {cause}")

    def blocked(self, unit: WorkUnit) -> None:
        self.lost[unit.kind] += 1

    def notice(self, text: str) -> None:
        """Something that concerns no one unit."""
        self.view.notice(text)

    def refresh(self) -> None:
        self.view.refresh(self)

    def _stop(self, unit: WorkUnit) -> float:
        self.latest.pop(unit.id, None)
        self.heard_at.pop(unit.id, None)
        _, since = self.running.pop(unit.id, (unit, self.clock()))
        return self.clock() - since

    def silent_seconds(self, unit_id: str) -> float:
        """Since a running unit began or last reported anything."""
        return self.clock() - self.heard_at[unit_id]

    def silent_units(self, seconds: float) -> list[tuple[WorkUnit, float]]:
        """Running units that have reported nothing for so long or longer, and for how long."""
        silences = [(unit, self.silent_seconds(unit_id)) for unit_id, (unit, _) in self.running.items()]
        return [(unit, silence) for unit, silence in silences if silence >= seconds]

    def event_of(self, unit_id: str) -> dict[str, Any]:
        """A running unit's last report, and the seconds since."""
        return self.latest.get(unit_id, {}) | {"silent_seconds": round(self.silent_seconds(unit_id), 1)}

    def fraction(self, unit_id: str) -> float | None:
        """How far a running unit says it is, 0..1."""
        event = self.latest.get(unit_id, {})
        return event["done"] / event["total"] if event.get("total") else None

    def time_left(self) -> "TimeLeft":
        """Work left over what there is of the scarcest resource, from the durations seen so far."""
        cpu_seconds = gpu_seconds = unit_seconds = longest = 0.0
        seen_all = True
        running_of = self.running_by_kind()
        for kind, total in self.total.items():
            open_units, running = total - self.done[kind] - self.lost[kind], running_of[kind]
            if not open_units:
                continue
            seconds = self._unit_seconds(kind, running)
            if seconds is None:
                seen_all = False
                continue
            left = [self._seconds_left_of(unit.id, since, seconds) for unit, since in running]
            of_kind = (open_units - len(running)) * seconds + sum(left)
            cpu_seconds += of_kind * self.one_of[kind].cpus
            gpu_seconds += of_kind * self.one_of[kind].gpus
            unit_seconds += of_kind
            longest = max([longest, *left])
        of_machines = max(cpu_seconds / max(self.capacity, 1.0), gpu_seconds / (self.gpus or math.inf))
        return TimeLeft(max(of_machines, unit_seconds / (self.max_running or math.inf), longest), seen_all)

    def running_by_kind(self) -> dict[str, list[tuple[WorkUnit, float]]]:
        """What runs of each kind, and since when."""
        found: dict[str, list[tuple[WorkUnit, float]]] = defaultdict(list)
        for unit, since in self.running.values():
            found[unit.kind].append((unit, since))
        return found

    def _unit_seconds(self, kind: str, running: list[tuple[WorkUnit, float]]) -> float | None:
        if count := self.timed[kind]:
            return self.seconds[kind] / count
        now = self.clock()
        estimates = [(now - since) / fraction for unit, since in running if (fraction := self.fraction(unit.id))]
        return sum(estimates) / len(estimates) if estimates else None

    def _seconds_left_of(self, unit_id: str, since: float, usual: float) -> float:
        elapsed, fraction = self.clock() - since, self.fraction(unit_id)
        return elapsed * (1 - fraction) / fraction if fraction else max(usual - elapsed, 0.0)


class ProgressView(Protocol):
    """Shows a board."""

    def begin(self, board: ProgressBoard) -> None: ...

    def line(self, text: str) -> None:
        """Something ordinary happened."""
        ...

    def notice(self, text: str) -> None:
        """Something a person should read."""
        ...

    def refresh(self, board: ProgressBoard) -> None: ...

    def end(self) -> None: ...


def describe_event(event: dict[str, Any]) -> str:
    """A worker's latest event in words: how far, how fast, how well, and since when it has been silent, if that is long."""
    parts = []
    if event.get("total"):
        parts.append(f"{event.get('done', 0)}/{event['total']}")
    for key, text in (
        ("epoch", "epoch {}"),
        ("samples_per_second", "{:.0f} samples/s"),
        ("steps_per_second", "{:.2f} outer steps/s"),
        ("loss", "loss {:.3f}"),
        ("validation", "validation {:.1f} %"),
        ("difference_error", "differences off by {:.0e}"),
    ):
        if event.get(key) is not None:
            parts.append(text.format(event[key]))
    if (silent := event.get("silent_seconds", 0)) >= SILENT_SECONDS:
        parts.append(f"silent for {silent / 60:.0f} min")
    return ", ".join(parts)


class LiveView:
    """A table redrawn in place: a row a stage, a row a running unit."""

    def __init__(self, console: Console) -> None:
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = -float("inf")

    def begin(self, board: ProgressBoard) -> None:
        self.live.start()
        self.refresh(board)

    def line(self, text: str) -> None:
        """The table shows it already."""

    def notice(self, text: str) -> None:
        self.live.console.print(Text(text, style="yellow"))

    def refresh(self, board: ProgressBoard) -> None:
        # A poll ends as soon as a unit does, and the table of a large run takes longer to draw than a unit to settle.
        if board.clock() - self._drawn >= LIVE_INTERVAL_SECONDS:
            self._drawn = board.clock()
            self.live.update(self._render(board), refresh=True)

    def end(self) -> None:
        self.live.stop()

    def _render(self, board: ProgressBoard) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=False, expand=False)
        for column in ("stage", "bar", "count", "running"):
            table.add_column(column, overflow="fold")
        running_of = board.running_by_kind()
        for kind, total in board.total.items():
            running = [unit for unit, _ in running_of[kind]]
            share = sum(board.fraction(unit.id) or 0.0 for unit in running)
            filled = round(20 * (board.done[kind] + share) / total)
            shown = running[:LIVE_UNITS]
            details = [f"{unit.label}: {describe_event(board.event_of(unit.id))}".rstrip(": ") for unit in shown]
            details += [f"and {len(running) - len(shown)} more"] if len(running) > len(shown) else []
            failed = f" ({board.lost[kind]} failed)" if board.lost[kind] else ""
            table.add_row(
                STAGE_NAMES[kind],
                Text("━" * filled, style="green") + Text("━" * (20 - filled), style="bright_black"),
                f"{board.done[kind]}/{total}{failed}",
                "\n".join(details),
            )
        elapsed = round(board.clock() - board.began)
        return Group(table, Text(f"{elapsed} s so far, {board.time_left()}", style="dim"))


class PlainView:
    """Lines for logs: what started and ended, and a summary now and then. No control characters."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.last = clock()

    def begin(self, board: ProgressBoard) -> None:
        total, done = board.total.total(), board.done.total()
        self._print(f"{total} units, {done} done before, {total - done} to run")

    def line(self, text: str) -> None:
        self._print(text)

    def notice(self, text: str) -> None:
        self._print(text)

    def refresh(self, board: ProgressBoard) -> None:
        if self.clock() - self.last < PLAIN_INTERVAL_SECONDS:
            return
        self.last = self.clock()
        told = list(board.latest)
        for unit_id in told[:PLAIN_UNITS]:
            self._print(f"{board.running[unit_id][0].label}: {describe_event(board.event_of(unit_id))}")
        if len(told) > PLAIN_UNITS:
            self._print(f"and {len(told) - PLAIN_UNITS} more units at work")
        self._print(f"{board.done.total()}/{board.total.total()} units, {board.time_left()}")

    def end(self) -> None:
        """Nothing to clear."""

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def make_view(console: Console) -> ProgressView:
    return LiveView(console) if console.is_terminal else PlainView(console)
