"""Samples the curves of a run for an experiment tracker: `vldd run ... --track tensorboard=DIR`."""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from vldd_dist.errors import ConfigError, message_of
from vldd_dist.events import Progress, RunEvent, UnitReported
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.monitoring.live.trackers import TRACKERS, Tracker

TRACK_SECONDS = 5
# Fields of `events.Progress` that are sent to the tracker.
CURVES = ("loss", "validation", "samples_per_second", "steps_per_second", "difference_error")

# (label of the unit, step, figures by name)
Point = tuple[str, int, dict[str, float]]

logger = logging.getLogger(__name__)


class Tracking(View):
    """A view that sends the latest figures of each unit to a tracker every `TRACK_SECONDS`, in a separate thread, and at the
    end. If the server is slow, the curves have fewer points, and the run does not wait."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker
        self._sent_at = -float("inf")
        # Unit id -> (its label, its latest progress), for units that reported since the last time figures were sent.
        self._latest: dict[str, tuple[str, Progress]] = {}
        # Unit id -> its label, for units of which figures were sent and whose end was not.
        self._open: dict[str, str] = {}
        # Unit id -> the last step that was sent.
        self._steps: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(1)
        self._sending: Future[None] | None = None

    def event(self, event: RunEvent, state: RunState) -> None:
        # Kept here and not read from the state, which forgets a unit at its end, just after its last report.
        if isinstance(event, UnitReported) and isinstance(event.report, Progress):
            self._latest[event.unit_id] = state.units[event.unit_id].label, event.report

    def refresh(self, state: RunState) -> None:
        busy = self._sending is not None and not self._sending.done()
        if self._tracker is None or busy or state.clock() - self._sent_at < TRACK_SECONDS:
            return
        self._sent_at = state.clock()
        points = self._new_points()
        ended = [self._open.pop(unit_id) for unit_id in self._open.keys() - state.running.keys()]
        self._sending = self._pool.submit(self._try, partial(_send, points, ended))

    def end(self) -> None:
        self._pool.shutdown()
        points = self._new_points()
        self._try(lambda tracker: _send(points, [], tracker))
        self._try(lambda tracker: tracker.close())

    def _new_points(self) -> list[Point]:
        points = []
        for unit_id, (label, progress) in self._latest.items():
            self._open[unit_id] = label
            if progress.done and self._steps.get(unit_id) != progress.done:
                self._steps[unit_id] = progress.done
                figures = {name: value for name in CURVES if (value := getattr(progress, name)) is not None}
                if figures:
                    points.append((label, progress.done, figures))
        self._latest.clear()
        return points

    def _try(self, call: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        try:
            call(tracker)
        except Exception as error:  # A tracking server, its client or a disk may raise anything; that must not stop the run.
            logger.warning("curves are no longer tracked: %s", message_of(error))
            self._tracker = None
            with contextlib.suppress(Exception):
                tracker.close()


def _send(points: list[Point], ended: list[str], tracker: Tracker) -> None:
    for unit, step, figures in points:
        tracker.log(unit, step, figures)
    for unit in ended:
        tracker.ended(unit)


def check_tracking(tracker: str) -> tuple[str, str]:
    """The name of the tracker and the target of NAME=TARGET, without a connection to either.

    Raises:
        ConfigError: there is no such tracker, or no target.
    """
    name, _, target = tracker.partition("=")
    if name not in TRACKERS or not target:
        choices = ", ".join(f"{name}=TARGET" for name in TRACKERS)
        raise ConfigError(f"--track {tracker}: expected one of {choices}")
    return name, target


def make_tracking(tracker: str, experiment: str) -> Tracking:
    """The view for NAME=TARGET. TARGET is a folder for tensorboard, a project for wandb, and a tracking URI for mlflow.

    Raises:
        ConfigError: there is no such tracker, its package is not installed, its server cannot be reached, or its folder
            cannot be made.
    """
    name, target = check_tracking(tracker)
    make, package = TRACKERS[name]
    try:
        return Tracking(make(target, experiment))
    except ImportError:
        raise ConfigError(f"--track {tracker}: {name} is not installed: pip install {package}") from None
    except Exception as error:
        raise ConfigError(f"--track {tracker}: {message_of(error)}") from None
