"""GPUs of this machine against those that units ask for, at the start: the first unit that asks may come hours later."""

from collections.abc import Callable, Sequence

import torch

from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.work_unit import WorkUnit


def compare_gpus(units: Sequence[WorkUnit], say: Callable[[str], None]) -> None:
    """For a run on this machine alone.

    Args:
        units: those that are to run.
        say: prints a line; told when there is a GPU that none of them uses.

    Raises:
        ConfigError: one of them asks for more GPUs than torch finds.
    """
    here = torch.cuda.device_count()
    asking = [unit for unit in units if unit.gpus]
    if lacking := next((unit for unit in asking if unit.gpus > here), None):
        finds = f"{here} on this machine" if here else "none on this machine (it takes a CUDA build of torch and a driver)"
        raise ConfigError(
            f"{lacking.label} asks for {_gpus(lacking.gpus)}, and torch finds {finds}: set its resources.gpus lower, --gpus 0 "
            "for all stages, or RAY_ADDRESS to run on a cluster"
        )
    if here and not asking and any(unit.execution.get("device") != "cpu" for unit in units):
        say(f"torch finds {_gpus(here)} here, and no unit asks for one: --gpus 1 gives each worker of every stage a GPU")


def _gpus(count: float) -> str:
    return f"{count:g} GPU{'' if count == 1 else 's'}"
