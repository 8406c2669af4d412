"""Events and figures in words: the only place that turns them into text."""

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

# A unit is shown as silent after this time without a report, which is longer than most steps between two reports.
SILENT_SECONDS = 120.0


@dataclass(frozen=True)
class Message:
    """Attributes:
    important: a person should read it: a retry, a failure, a notice.
    """

    text: str
    important: bool = False


def describe_event(event: RunEvent, state: RunState) -> Message | None:
    """One line; None where an event is of no interest to people by itself."""
    match event:
        case RunNotice(text):
            return Message(text, important=True)
        case UnitReported(unit_id, Notice(text)):
            return Message(f"{state.units[unit_id].label}: {text}", important=True)
        case UnitStarted(unit_id):
            return Message(f"{state.units[unit_id].label}: started")
        case UnitFinished(unit_id, seconds):
            return Message(f"{state.units[unit_id].label}: done in {seconds:.0f} s")
        case UnitPaused(unit_id, seconds):
            return Message(f"{state.units[unit_id].label}: attempt failed, retry decided in {seconds:g} s")
        case UnitRetried(unit_id, _, cause):
            return Message(f"{state.units[unit_id].label}: tried again, {cause}", important=True)
        case UnitWaits(unit_id, input_id):
            return Message(f"{state.units[unit_id].label}: waits for {state.units[input_id].label}")
        case UnitFailed(unit_id, _, cause):
            return Message(f"{state.units[unit_id].label}: FAILED, {cause}", important=True)
    return None


def describe_figures(figures: Mapping[str, Any]) -> str:
    """How far a unit is, how fast, how well, and for how long it has been silent, if that is long.

    Args:
        figures: as of `UnitState.figures`, or as stored in a status; each may be missing.
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
