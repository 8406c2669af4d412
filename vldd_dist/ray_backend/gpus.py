"""Compares this machine's GPUs with those that units ask for, when a run starts: the first unit with a GPU may run hours
later."""

from collections.abc import Sequence

import torch

from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.work_unit import WorkUnit


def compare_gpus(units: Sequence[WorkUnit]) -> None:
    """Check the GPUs for a run on this machine alone.

    Args:
        units: the units that will run.

    Raises:
        ConfigError: a unit asks for more GPUs than torch finds.
    """
    # torch also counts the GPUs of a driver that it cannot use.
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if lacking := next((unit for unit in units if unit.gpus > available), None):
        finds = "none on this machine (it takes a CUDA build of torch and a driver)"
        if available:
            finds = f"{available} on this machine"
        raise ConfigError(
            f"{lacking.label} asks for {_gpus(lacking.gpus)}, and torch finds {finds}: set its resources.gpus lower, --gpus 0 "
            "for all stages, or run it on a cluster (RAY_ADDRESS, without --in-process)"
        )


def _gpus(count: float) -> str:
    return f"{count:g} GPU{'' if count == 1 else 's'}"
