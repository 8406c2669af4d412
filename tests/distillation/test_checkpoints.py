"""A distillation's checkpoint can be read by any number of ranks."""

import pytest
import torch

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.distillation.checkpoints import LoopState, OuterLoopCheckpoints
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.sharding.ranks import SOLO, rows_of
from vldd_dist.store.async_writer import AsyncWriter
from vldd_dist.store.store import Store

TOTAL = 5


def state(value: float) -> LoopState:
    """Five pairs whose rows differ, with `value` added to all numbers."""
    rows = {"images": torch.rand(TOTAL, 3, 2, 2) + value, "texts": torch.rand(TOTAL, 4) + value}
    pairs = SyntheticPairs(rows, {"log_rates": torch.tensor([value, -value])})
    rates = {"images": 0.1, "texts": 0.1, "log_rates": 0.1}
    return LoopState(pairs, pairs.clone(), OuterOptimiser(pairs, rates, DistillationSettings(optimiser="sgd")))


def saved(store: Store) -> tuple[UnitWriter, LoopState, dict[str, bytes]]:
    """Save a checkpoint of one rank; returns the unit's writer, the stored state, and the objects."""
    writer, written = UnitWriter(store, "distillation", "u", {}, {}), state(1.0)
    with AsyncWriter() as uploads:
        OuterLoopCheckpoints(writer, SOLO, TOTAL).save(3, written, {"loss": torch.ones(3)}, {"a": 1}, uploads)
    (key,) = writer.checkpoints.keys()
    checkpoint = writer.checkpoints.read(key, lambda name: True)
    assert checkpoint is not None
    return writer, written, {name: checkpoint.read(name) for name in checkpoint.names}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_row_files_of_any_number_of_ranks_are_read(count: int, store: Store) -> None:
    writer, written, objects = saved(store)
    assert set(objects) == {"rows.safetensors", "shared.safetensors"}
    if count > 1:
        rows = tensors.decode(objects.pop("rows.safetensors"), "rows")
        for index in range(count):
            first, end = rows_of(index, count, TOTAL)
            name = f"rows-{index + 1:05d}-of-{count:05d}.safetensors"
            objects[name] = tensors.encode({key: value[first:end] for key, value in rows.items()})
        writer.checkpoints.save(4, objects, {"a": 1})
    read = state(7.0)
    found = OuterLoopCheckpoints(writer, SOLO, TOTAL).restore(read)
    assert found is not None
    step, curves, facts = found
    assert (step, facts, curves["loss"].tolist()) == (3 if count == 1 else 4, {"a": 1}, [1.0] * 3)
    for ours, theirs in ((read.pairs, written.pairs), (read.best, written.best)):
        for name, value in (theirs.rows | theirs.shared).items():
            assert torch.equal((ours.rows | ours.shared)[name], value), name
