"""The context that a unit's runner gets."""

import random
from types import SimpleNamespace

import pytest
import torch

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment


def roles(store: Store, names: list[str], prefix: str) -> list[str]:
    order = UnitOrder("distillation", "0", {}, dict.fromkeys(names, ("expert", "0")), {}, 1, 0, "")
    return StageContext(order, store, UnitWriter(store, "distillation", "0", {}, {}), lambda event: None).roles(prefix)


def test_roles_are_in_the_order_of_their_numbers(store: Store) -> None:
    """The position of a role is the expert's index, so that a draw selects the same expert for any number of experts."""
    experts = [f"expert_{index:03d}" for index in range(1102)]
    given = ["features", *experts]
    random.Random(0).shuffle(given)
    assert roles(store, given, "expert_") == experts
    assert roles(store, ["recall.random.0.10", "recall.random.0.9", "recall.herding.1.0"], "recall.") == [
        "recall.herding.1.0",
        "recall.random.0.9",
        "recall.random.0.10",
    ]
    assert roles(store, ["recall.random.10.0", "recall.random.-1.0", "recall.random.9.0"], "recall.random.") == [
        "recall.random.9.0",
        "recall.random.10.0",
        "recall.random.-1.0",
    ]


@pytest.mark.parametrize(
    ("device", "gpus", "on", "fractions"),
    [
        ("auto", 0, "cpu", []),
        ("auto", 1, "cuda", []),
        ("auto", 0.5, "cuda", [0.5 - 1 / 16]),
        ("auto", 0.1, "cuda", [0.05]),
        ("cpu", 0.5, "cpu", []),
        ("cpu", 1, "cpu", []),
    ],
)
def test_a_worker_uses_the_part_of_a_gpu_that_it_was_given(
    device: str, gpus: float, on: str, fractions: list[float], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 << 30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    order = UnitOrder("expert", "0", {}, {}, {}, 1, gpus, "", device=device)
    context = StageContext(order, store, UnitWriter(store, "expert", "0", {}, {}), lambda event: None)
    assert context.device == context.device == torch.device(on)
    assert limits == fractions


def test_how_a_unit_runs_is_in_its_order_and_not_in_its_id() -> None:
    units = Graph(experiment("device=cpu", "distill.sharding=fsdp", "distill.rank_timeout_seconds=7")).units()
    assert [unit.id for unit in units] == [unit.id for unit in Graph(experiment()).units()]
    found = {}
    for order in (unit.order() for unit in units):
        found[order.kind] = order.is_group, order.sharding, order.rank_timeout_seconds, order.device
    assert found["distillation"] == (True, "fsdp", 7, "cpu")
    assert found["expert"] == (False, "none", 600, "cpu")
    assert found["shard_group"] == (False, "none", 0, "cpu")
