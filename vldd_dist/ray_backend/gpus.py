"""Compares this machine's GPUs with those that units ask for, when a run starts: the first unit with a GPU may run hours
later."""

from collections.abc import Callable, Sequence

import torch

from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.work_unit import WorkUnit


def compare_gpus(units: Sequence[WorkUnit], say: Callable[[str], None]) -> None:
    """Check the GPUs for a run on this machine alone.

    Args:
        units: the units that will run.
        say: prints a line; called if this machine has a GPU that no unit uses.

    Raises:
        ConfigError: a unit asks for more GPUs than torch finds.
    """
    # torch also counts the GPUs of a driver that it cannot use.
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asking = [unit for unit in units if unit.gpus]
    if lacking := next((unit for unit in asking if unit.gpus > available), None):
        finds = "none on this machine (it takes a CUDA build of torch and a driver)"
        if available:
            finds = f"{available} on this machine"
        raise ConfigError(
            f"{lacking.label} asks for {_gpus(lacking.gpus)}, and torch finds {finds}: set its resources.gpus lower, --gpus 0 "
            "for all stages, or RAY_ADDRESS to run on a cluster"
        )
    if available and not asking and any(unit.device != "cpu" for unit in units):
        say(
            f"torch finds {_gpus(available)} here, and no unit asks for one: --gpus 1 gives one to each worker that runs a "
            "network"
        )


def _gpus(count: float) -> str:
    return f"{count:g} GPU{'' if count == 1 else 's'}"
