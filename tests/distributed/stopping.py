"""A unit on several ranks that stops after a checkpoint, as if all its processes were killed."""

from typing import Any

import torch
from torch import Tensor

from vldd_dist.artifacts.checkpoints import UnitCheckpoints
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.store import Store


class Stopped(Exception):
    """Ends the unit as a kill would: nothing more is written."""


def execute_until(ranks: Ranks, url: str, unit: WorkUnit, stop_at: int | None) -> dict[str, bytes]:
    """Run a unit up to the checkpoint of step `stop_at`, or to its end if that is None.

    Returns:
        What this rank wrote for its last checkpoint.
    """
    torch.set_num_threads(1)
    save = UnitCheckpoints.write_objects
    last: dict[str, bytes] = {}

    def stopping(self: UnitCheckpoints, step: int, objects: dict[str, bytes]) -> Any:
        if stop_at is not None and step > stop_at:
            raise Stopped
        last.clear()
        last.update(objects)
        return save(self, step, objects)

    UnitCheckpoints.write_objects = stopping  # type: ignore[method-assign]
    try:
        execute(unit.order(), Store(url), lambda event: None, ranks)
    except Stopped:
        pass
    finally:
        UnitCheckpoints.write_objects = save  # type: ignore[method-assign]
    return last


def rows_at_the_end(written: dict[str, bytes]) -> dict[str, Tensor]:
    """The pairs in what a rank wrote for its last checkpoint. The unit's own result may be the starting pairs, as those of
    so short a run may validate best."""
    (rows,) = [data for name, data in written.items() if name.startswith("rows")]
    named = tensors.decode(rows, "rows")
    return {name.removeprefix("pairs/"): tensor for name, tensor in named.items() if name.startswith("pairs/")}
