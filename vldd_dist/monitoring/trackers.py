"""Curves of a run for other tools to draw: `vldd run ... --track tensorboard=DIR`.

Another tool is one more `Tracker` and one line in `TRACKERS`.
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
from vldd_dist.monitoring.progress import ProgressBoard

TRACK_SECONDS = 5
# What of a worker's report is drawn.
CURVES = ("loss", "validation", "samples_per_second", "steps_per_second", "difference_error")

# (label of the unit, step, figures)
Point = tuple[str, int, dict[str, float]]

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where curves go. Whatever a method raises ends the tracking, not the run."""

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a unit, by its label, after `step` samples or outer steps."""
        ...

    def ended(self, unit: str) -> None:
        """Nothing more comes of this unit, unless it is tried again."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class TensorBoard:
    """Event files in a folder, one run a unit: TensorBoard shows the experts' and distillations' curves side by side."""

    def __init__(self, target: str, experiment: str) -> None:
        # Here, as in the others: most runs ask for none of them.
        from tensorboardX import SummaryWriter

        self._make = lambda unit: SummaryWriter(str(Path(target) / unit.replace(" ", "-")))
        self._writers: dict[str, SummaryWriter] = {}

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        if unit not in self._writers:
            self._writers[unit] = self._make(unit)
        for name, value in figures.items():
            self._writers[unit].add_scalar(name, value, step)

    def ended(self, unit: str) -> None:
        # Each has files and threads of its own.
        if unit in self._writers:
            self._writers.pop(unit).close()

    def close(self) -> None:
        for unit in list(self._writers):
            self.ended(unit)


class WeightsAndBiases:
    """A project of W&B, one run an experiment; account, server and offline mode as `wandb` takes them from the environment."""

    def __init__(self, target: str, experiment: str) -> None:
        import wandb

        self._run = wandb.init(project=target, name=experiment, settings=wandb.Settings(silent=True, console="off"))
        self._known: set[str] = set()

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        if unit not in self._known:
            # Each unit counts its own steps.
            self._run.define_metric(f"{unit}/*", step_metric=f"{unit}/step")
            self._known.add(unit)
        self._run.log({f"{unit}/{name}": value for name, value in {**figures, "step": step}.items()})

    def ended(self, unit: str) -> None:
        """The run goes on."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """An MLflow server or folder, one run of the experiment's name; credentials as `mlflow` takes them from the environment."""

    def __init__(self, target: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(target)
        known = self._client.get_experiment_by_name(experiment)
        self._run = self._client.create_run(known.experiment_id if known else self._client.create_experiment(experiment))

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # Of other characters its names may not be made.
        label = re.sub(r"[^\w .:-]", "-", unit)
        metrics = [Metric(f"{label}/{name}", value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run.info.run_id, metrics=metrics)

    def ended(self, unit: str) -> None:
        """The run goes on."""

    def close(self) -> None:
        self._client.set_terminated(self._run.info.run_id)


class Tracking:
    """A progress view that hands a tracker what is new on the board, every `TRACK_SECONDS`, beside the coordinator's loop: a
    slow server makes curves coarser, not the run slower."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float] = time.monotonic) -> None:
        self._tracker: Tracker | None = tracker
        self._clock, self._last = clock, -float("inf")
        # By unit id: its label, and the step drawn last.
        self._labels: dict[str, str] = {}
        self._steps: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(1)
        self._drawing: Future[None] | None = None

    def begin(self, board: ProgressBoard) -> None:
        """Nothing to draw yet."""

    def line(self, text: str) -> None:
        """No curve."""

    def notice(self, text: str) -> None:
        """No curve."""

    def refresh(self, board: ProgressBoard) -> None:
        busy = self._drawing is not None and not self._drawing.done()
        if self._tracker is None or busy or self._clock() - self._last < TRACK_SECONDS:
            return
        self._last = self._clock()
        ended = [self._labels.pop(unit_id) for unit_id in self._labels.keys() - board.running.keys()]
        self._labels |= {unit_id: unit.label for unit_id, (unit, _) in board.running.items()}
        self._drawing = self._pool.submit(self._try, partial(_draw, self._new_points(board), ended))

    def end(self) -> None:
        self._pool.shutdown()
        self._try(lambda tracker: tracker.close())

    def _new_points(self, board: ProgressBoard) -> list[Point]:
        points = []
        for unit_id, (unit, _) in board.running.items():
            event = board.latest.get(unit_id, {})
            step = event.get("done", 0)
            if step and self._steps.get(unit_id) != step:
                self._steps[unit_id] = step
                points.append((unit.label, step, {name: event[name] for name in CURVES if event.get(name) is not None}))
        return points

    def _try(self, call: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        try:
            call(tracker)
        except Exception as error:  # Of other people's servers and disks; curves are not worth a run.
            logger.warning("curves are no longer tracked: %s", " ".join(str(error).split())[:300])
            self._tracker = None
            with contextlib.suppress(Exception):
                tracker.close()


def _draw(points: list[Point], ended: list[str], tracker: Tracker) -> None:
    for unit, step, figures in points:
        tracker.log(unit, step, figures)
    for unit in ended:
        tracker.ended(unit)


# Name -> the tracker and the package that it takes.
TRACKERS: dict[str, tuple[Callable[[str, str], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow-skinny"),
}


def make_tracking(description: str, experiment: str) -> Tracking:
    """Of NAME=TARGET: a folder for tensorboard, a project for wandb, a tracking URI for mlflow.

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
