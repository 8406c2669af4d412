"""Curves of a run in experiment trackers: `vldd run ... --track tensorboard=DIR`.

To add one: a class with the methods of `Tracker`, and a line in `TRACKERS`.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

from vldd_dist.errors import ConfigError
from vldd_dist.events import RunEvent
from vldd_dist.monitoring.run_state import RunState

TRACK_SECONDS = 5
# Fields of `events.Progress` that are drawn.
CURVES = ("loss", "validation", "samples_per_second", "steps_per_second", "difference_error")

# (label of the unit, step, figures)
Point = tuple[str, int, dict[str, float]]

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """A tool that curves are sent to. Whatever a method raises ends the tracking, not the run."""

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a unit, by its label, after `step` samples or outer steps."""
        ...

    def ended(self, unit: str) -> None:
        """The unit ended; more follows only if it is tried again."""
        ...

    def close(self) -> None:
        """The run ended."""
        ...


class TensorBoard:
    """Event files in a folder, a TensorBoard run for each unit, so that curves of units are shown side by side."""

    def __init__(self, target: str, experiment: str) -> None:
        # Imported here, as in the other trackers: most runs use none of them.
        from tensorboardX import SummaryWriter

        self._make = lambda unit: SummaryWriter(str(Path(target) / unit.replace(" ", "-")))
        self._writers: dict[str, SummaryWriter] = {}

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        if unit not in self._writers:
            self._writers[unit] = self._make(unit)
        for name, value in figures.items():
            self._writers[unit].add_scalar(name, value, step)

    def ended(self, unit: str) -> None:
        # Each writer holds a file and a thread.
        if unit in self._writers:
            self._writers.pop(unit).close()

    def close(self) -> None:
        for unit in list(self._writers):
            self.ended(unit)


class WeightsAndBiases:
    """A W&B project, one W&B run; account, server and offline mode come from wandb's environment variables."""

    def __init__(self, target: str, experiment: str) -> None:
        import wandb

        self._run = wandb.init(project=target, name=experiment, settings=wandb.Settings(silent=True, console="off"))
        self._known: set[str] = set()

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        if unit not in self._known:
            # Units count their steps apart.
            self._run.define_metric(f"{unit}/*", step_metric=f"{unit}/step")
            self._known.add(unit)
        self._run.log({f"{unit}/{name}": value for name, value in {**figures, "step": step}.items()})

    def ended(self, unit: str) -> None:
        """W&B's run covers all units."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """An MLflow server or folder, an MLflow run for each run; credentials come from mlflow's environment variables."""

    def __init__(self, target: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(target)
        known = self._client.get_experiment_by_name(experiment)
        self._run = self._client.create_run(known.experiment_id if known else self._client.create_experiment(experiment))

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # MLflow allows no other characters in names.
        label = re.sub(r"[^\w .:-]", "-", unit)
        metrics = [Metric(f"{label}/{name}", value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run.info.run_id, metrics=metrics)

    def ended(self, unit: str) -> None:
        """The MLflow run covers all units."""

    def close(self) -> None:
        self._client.set_terminated(self._run.info.run_id)


class Tracking:
    """A view that hands a tracker what is new, every `TRACK_SECONDS`, on a thread of its own: a slow server makes curves
    coarser, not the run slower."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float] = time.monotonic) -> None:
        self._tracker: Tracker | None = tracker
        self._clock, self._drawn_at = clock, -float("inf")
        # By unit id: its label, and the step drawn last.
        self._labels: dict[str, str] = {}
        self._steps: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(1)
        self._drawing: Future[None] | None = None

    def begin(self, state: RunState) -> None:
        """Nothing to draw yet."""

    def event(self, event: RunEvent, state: RunState) -> None:
        """Figures are sampled from the state."""

    def refresh(self, state: RunState) -> None:
        busy = self._drawing is not None and not self._drawing.done()
        if self._tracker is None or busy or self._clock() - self._drawn_at < TRACK_SECONDS:
            return
        self._drawn_at = self._clock()
        ended = [self._labels.pop(unit_id) for unit_id in self._labels.keys() - state.running.keys()]
        self._labels |= {unit_id: running.unit.label for unit_id, running in state.running.items()}
        self._drawing = self._pool.submit(self._try, partial(_draw, self._new_points(state), ended))

    def end(self) -> None:
        self._pool.shutdown()
        self._try(lambda tracker: tracker.close())

    def _new_points(self, state: RunState) -> list[Point]:
        points = []
        for unit_id, running in state.running.items():
            progress = running.progress
            if progress is not None and progress.done and self._steps.get(unit_id) != progress.done:
                self._steps[unit_id] = progress.done
                figures = {name: value for name in CURVES if (value := getattr(progress, name)) is not None}
                points.append((running.unit.label, progress.done, figures))
        return points

    def _try(self, call: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        try:
            call(tracker)
        except Exception as error:  # Whatever a tracking server, its client or a disk raises: curves are not worth a run.
            logger.warning("curves are no longer tracked: %s", " ".join(str(error).split())[:300])
            self._tracker = None
            with contextlib.suppress(Exception):
                tracker.close()


def _draw(points: list[Point], ended: list[str], tracker: Tracker) -> None:
    for unit, step, figures in points:
        tracker.log(unit, step, figures)
    for unit in ended:
        tracker.ended(unit)


# Name -> the tracker and the package it needs.
TRACKERS: dict[str, tuple[Callable[[str, str], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow-skinny"),
}


def make_tracking(description: str, experiment: str) -> Tracking:
    """The view for NAME=TARGET, where TARGET is a folder for tensorboard, a project for wandb, a tracking URI for mlflow.

    Raises:
        ConfigError: there is no such tracker, its package is not installed, or it cannot be reached.
    """
    name, _, target = description.partition("=")
    if name not in TRACKERS or not target:
        known = ", ".join(f"{name}=TARGET" for name in TRACKERS)
        raise ConfigError(f"--track {description}: expected one of {known}")
    make, package = TRACKERS[name]
    try:
        return Tracking(make(target, experiment))
    except ImportError:
        raise ConfigError(f"--track {description}: {name} is not installed: pip install {package}") from None
    except Exception as error:
        raise ConfigError(f"--track {description}: {' '.join(str(error).split())[:300]}") from None
