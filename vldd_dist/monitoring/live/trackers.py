"""Experiment trackers that show the curves of a run: `vldd run ... --track tensorboard=DIR`.

To add a tracker, write a class with the methods of `Tracker`, and add a line to `TRACKERS`.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """A tool to which curves are sent. If a method raises, tracking ends and the run continues."""

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        """Record figures of a unit after `step` samples or outer steps. `unit` is the unit's label."""
        ...

    def ended(self, unit: str) -> None:
        """Called when the unit ended. More figures of it follow only if it is tried again."""
        ...

    def close(self) -> None:
        """Called when the run ended."""
        ...


class TensorBoard:
    """Event files in a folder, with a TensorBoard run for each unit, so that the curves of units are shown side by side."""

    def __init__(self, target: str, experiment: str) -> None:
        # Imported here, as in the other trackers, because most runs use no tracker.
        from tensorboardX import SummaryWriter

        folder = Path(target)
        # A folder that cannot be made is noticed here and not when the first curve is written.
        folder.mkdir(parents=True, exist_ok=True)
        self._make = lambda unit: SummaryWriter(str(folder / unit.replace(" ", "-")))
        self._writers: dict[str, SummaryWriter] = {}

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        if unit not in self._writers:
            self._writers[unit] = self._make(unit)
        for name, value in figures.items():
            self._writers[unit].add_scalar(name, value, step)

    def ended(self, unit: str) -> None:
        # An open writer holds a file and a thread.
        if unit in self._writers:
            self._writers.pop(unit).close()

    def close(self) -> None:
        for unit in list(self._writers):
            self.ended(unit)


class WeightsAndBiases:
    """A W&B project, with one W&B run for all units. wandb's environment variables set account, server and offline mode."""

    def __init__(self, target: str, experiment: str) -> None:
        import wandb

        self._run = wandb.init(project=target, name=experiment, settings=wandb.Settings(silent=True, console="off"))
        self._defined: set[str] = set()

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        if unit not in self._defined:
            # Each unit counts its own steps.
            self._run.define_metric(f"{unit}/*", step_metric=f"{unit}/step")
            self._defined.add(unit)
        self._run.log({f"{unit}/{name}": value for name, value in {**figures, "step": step}.items()})

    def ended(self, unit: str) -> None:
        """Does nothing: the W&B run is for all units."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """An MLflow server or folder, with one MLflow run for all units. mlflow's environment variables set credentials."""

    def __init__(self, target: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(target)
        existing = self._client.get_experiment_by_name(experiment)
        experiment_id = existing.experiment_id if existing else self._client.create_experiment(experiment)
        self._run = self._client.create_run(experiment_id)

    def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # MLflow allows only these characters in names.
        label = re.sub(r"[^\w .:-]", "-", unit)
        metrics = [Metric(f"{label}/{name}", value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run.info.run_id, metrics=metrics)

    def ended(self, unit: str) -> None:
        """Does nothing: the MLflow run is for all units."""

    def close(self) -> None:
        self._client.set_terminated(self._run.info.run_id)


# Name -> (tracker, package that it needs).
TRACKERS: dict[str, tuple[Callable[[str, str], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow-skinny"),
}
