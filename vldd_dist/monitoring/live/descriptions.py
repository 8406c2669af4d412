"""Turns events and figures into text. No other module does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vldd_dist.events import (
    Notice,
    RunEvent,
    RunNotice,
    UnitFailed,
    UnitFinished,
    UnitPaused,
    UnitReported,
    UnitRetried,
    UnitStarted,
    UnitWaits,
)
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.reporting.durations import duration

# After this time without a report a unit is shown as silent. Most steps between two reports are shorter.
SILENT_SECONDS = 120.0
# For this time after a failed attempt the unit is shown nowhere, so the user should read why. After shorter pauses the event
# that follows says it.
LONG_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class Message:
    """A line of text for the user.

    Attributes:
        important: whether the user should read it: retries, long pauses, failures, and notices.
    """

    text: str
    important: bool = False


def describe_event(event: RunEvent, state: RunState) -> Message | None:
    """One line of text; None for events that need no line."""
    match event:
        case RunNotice(text):
            return Message(text, important=True)
        case UnitReported(unit_id, Notice(text)):
            return Message(f"{state.units[unit_id].label}: {text}", important=True)
        case UnitStarted(unit_id):
            return Message(f"{state.units[unit_id].label}: started")
        case UnitFinished(unit_id, seconds):
            return Message(f"{state.units[unit_id].label}: done in {duration(seconds)}")
        case UnitPaused(unit_id, seconds, cause):
            text = f"{state.units[unit_id].label}: attempt failed, decision on a retry in {duration(seconds)}"
            is_long = seconds >= LONG_PAUSE_SECONDS
            return Message(f"{text}: {cause}" if is_long else text, is_long)
        case UnitRetried(unit_id, _, cause):
            return Message(f"{state.units[unit_id].label}: retried: {cause}", important=True)
        case UnitWaits(unit_id, input_id):
            return Message(f"{state.units[unit_id].label}: waits for {state.units[input_id].label}")
        case UnitFailed(unit_id, _, cause):
            return Message(f"{state.units[unit_id].label}: FAILED, {cause}", important=True)
    return None


def describe_running(figures: Mapping[str, Any]) -> str:
    """As `describe_figures`, and in words if there are none. A worker reports as soon as it starts."""
    return describe_figures(figures) or ("started" if "silent_seconds" in figures else "waits for a machine")


def describe_figures(figures: Mapping[str, Any]) -> str:
    """The progress, speed, loss and recall of a unit as text, and for how long it has been silent, if that is long.

    Args:
        figures: as `RunningUnit.figures` returns them, or as stored in a status; each may be missing.
    """
    parts = []
    if figures.get("total"):
        parts.append(f"{figures.get('done', 0)}/{figures['total']}")
    for name, text in (
        ("epoch", "epoch {}"),
        ("samples_per_second", "{:.0f} samples/s"),
        ("steps_per_second", "{:.2f} outer steps/s"),
        ("loss", "loss {:.3f}"),
        ("validation", "validation {:.1f} %"),
        ("difference_error", "finite-difference error {:.0e}"),
    ):
        if figures.get(name) is not None:
            parts.append(text.format(figures[name]))
    if (silent := figures.get("silent_seconds", 0)) >= SILENT_SECONDS:
        parts.append(f"silent for {silent / 60:.0f} min")
    return ", ".join(parts)
