"""The settings that an attempt at a unit makes in its process."""

import os
from dataclasses import replace

import pytest
import torch

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.pipeline.execute import execute
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of


@pytest.mark.parametrize(("cpus", "threads", "parallel"), [(0.5, 1, "false"), (1, 1, "false"), (3, 3, "true")])
def test_a_unit_computes_on_no_more_cpus_than_it_asks_for(cpus: float, threads: int, parallel: str, store: Store) -> None:
    """Both torch and the text encoder's tokenizer, which reads these variables, are limited."""
    before = torch.get_num_threads()
    (unit, *_) = units_of(experiment(), "shard_group")
    try:
        execute(replace(unit.order(), worker_cpus=cpus), store, lambda event: None)
        assert torch.get_num_threads() == threads
        assert (os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"]) == (str(threads), parallel)
    finally:
        torch.set_num_threads(before)


def test_a_committed_unit_is_not_computed_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoints are deleted, so that another run, or a retry after a lost answer, would start from scratch."""
    (unit, *_) = units_of(experiment(), "shard_group")
    execute(unit.order(), store, lambda event: None)
    monkeypatch.setattr(UnitWriter, "commit", lambda *arguments, **more: pytest.fail("computed again"))
    events: list[object] = []
    execute(unit.order(), store, events.append)
    assert events == []
    other = replace(unit, spec=unit.spec | {"other": True}).order()
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        execute(other, store, events.append)
