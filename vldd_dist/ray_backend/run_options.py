"""The options of a run, in a file that can be imported without Ray."""

import os
from dataclasses import dataclass
from pathlib import Path

from vldd_dist.errors import ConfigError

# Ray sets this variable for the driver of a job.
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class RunOptions:
    """What to run and how; nothing here changes a result.

    Attributes:
        until: the milestone of the last stage to run; None: all stages.
        track: experiment trackers, each as NAME=TARGET (see `monitoring.live.trackers`).
        max_running: the largest number of units at once, at least 1; None: as many as fit.
        wait_hours: how long the run waits for machines while none of its units runs.
    """

    until: str | None = None
    track: tuple[str, ...] = ()
    max_running: int | None = None
    wait_hours: float = 1.0


DEFAULTS = RunOptions()


def is_job() -> bool:
    """Whether this process is the driver of a job, which runs in Ray's copy of the submitted files."""
    return JOB_VARIABLE in os.environ


def check_store_of_job(store: str) -> None:
    """Refuse a store whose path depends on the working directory. In that of a job it would be lost with the job's files.

    Raises:
        ConfigError: it is a relative path.
    """
    if "://" not in store and not Path(store).is_absolute():
        raise ConfigError(f"--store {store}: a job runs in another working directory: use a URL or an absolute path")


def check_tracker_of_job(tracker: str) -> None:
    """Refuse a tracker whose folder depends on the working directory, for the same reason.

    Args:
        tracker: NAME=TARGET, as in `RunOptions.track`.

    Raises:
        ConfigError: its folder is a relative path.
    """
    name, _, target = tracker.partition("=")
    # MLflow's `databricks` is a server without a URL.
    is_folder = name == "tensorboard" or (name == "mlflow" and "://" not in target and target != "databricks")
    if is_folder and not Path(target).is_absolute():
        raise ConfigError(
            f"--track {tracker}: a job runs in another working directory: use an absolute path that is shared with the cluster"
        )
