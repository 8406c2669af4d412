"""Curves of a run in experiment trackers: `vldd run ... --track tensorboard=DIR`.

To add one: a class with the methods of `Tracker`, and a line in `TRACKERS`.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol


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


# Name -> the tracker and the package it needs.
TRACKERS: dict[str, tuple[Callable[[str, str], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow-skinny"),
}
