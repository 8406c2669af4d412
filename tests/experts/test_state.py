"""The objects that an expert writes: each byte of its parameters once."""

import threading
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest
import torch
from torch import nn

from vldd_dist.artifacts.manifests import CheckpointRecord, from_json
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.experts.forgetting import ForgettingCounts
from vldd_dist.experts.state import ExpertState
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.sharding.engines.replicas import Replicas
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run, units_of

TEXT_DIM = 384
# Three epochs, of which all but epoch 2 are kept.
SETTINGS = ["experts.epochs=3", "distill.objective.max_start_epoch=0", "experts.augment=null"]


def test_each_kept_snapshot_is_written_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of a kept epoch refers to the snapshots' blobs."""
    tree = experiment(*SETTINGS)
    run(store, [unit for unit in Graph(tree).units() if unit.kind in DATA_KINDS])
    written: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    records: list[CheckpointRecord] = []
    write = Store.write

    def counted(self: Store, key: str, data: bytes) -> None:
        written[digest := sha256(data).hexdigest()] += 1
        sizes[digest] = len(data)
        if "/checkpoints/" in key:
            records.append(from_json(CheckpointRecord, data, key))
        write(self, key, data)

    monkeypatch.setattr(Store, "write", counted)
    expert = units_of(tree, "expert")[0]
    run(store, [expert])
    manifest = UnitReader(store, "expert", expert.id).manifest
    kept = manifest.facts["epochs"]
    assert 2 not in kept, "an epoch that has only a checkpoint"
    snapshots = {name: info for name, info in manifest.objects.items() if name.startswith("epoch-")}
    for epoch, record in enumerate(records):
        for tower in ("image", "text"):
            name = f"epoch-{epoch:04d}/{tower}.safetensors"
            assert record.objects[name].key.startswith("blobs/" if epoch in kept else expert_prefix(expert.id))
            assert written[record.objects[name].sha256] == 1
    # The parameters of four epochs and the momentum of the last three, and little else.
    parameters = sum(info.size for name, info in snapshots.items() if name.startswith("epoch-0000/"))
    total = sum(sizes[digest] * count for digest, count in written.items())
    assert 4 * parameters < total < 4 * parameters + 3.5 * parameters


def test_training_goes_on_while_the_snapshots_of_an_epoch_are_uploaded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = experiment("experts.epochs=1", "distill.objective.max_start_epoch=0", "experts.augment=null")
    run(store, [unit for unit in Graph(tree).units() if unit.kind in DATA_KINDS])
    answered, returned = threading.Event(), []
    put_blob, save = UnitWriter.put_blob, ExpertState.save

    def slow(self: UnitWriter, data: bytes) -> ObjectInfo:
        assert answered.wait(HANG_SECONDS)
        return put_blob(self, data)

    watchdog = threading.Timer(5, answered.set)

    def saved(self: ExpertState, epoch: int, keep: bool, *more: Any) -> None:
        if not epoch:
            watchdog.start()
        save(self, epoch, keep, *more)
        if not epoch:
            returned.append((keep, answered.is_set()))
            answered.set()

    monkeypatch.setattr(UnitWriter, "put_blob", slow)
    monkeypatch.setattr(ExpertState, "save", saved)
    (expert, *_) = units_of(tree, "expert")
    run(store, [expert])
    watchdog.cancel()
    assert returned == [(True, False)]
    assert UnitReader(store, "expert", expert.id).manifest.facts["epochs"] == [0, 1]


def expert_prefix(unit_id: str) -> str:
    return f"units/expert/{unit_id}/"


def test_momentum_is_restored_if_a_parameter_has_no_gradient() -> None:
    def model() -> tuple[nn.Linear, Replicas]:
        torch.manual_seed(0)
        layer = nn.Linear(2, 2)
        layer.register_parameter("unused", nn.Parameter(torch.ones(3)))
        return layer, Replicas(layer, torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9), SOLO)

    layer, whole = model()
    again, resumed = model()
    whole.step(layer(torch.ones(1, 2)).sum())
    resumed.write(whole.read())
    resumed.write_momentum(whole.read_momentum())
    for one, replicas in ((layer, whole), (again, resumed)):
        replicas.step(one(torch.ones(1, 2)).sum())
    assert all(torch.equal(a, b) for a, b in zip(whole.read(), resumed.read(), strict=True))


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_an_expert_writes_what_the_plan_says(momentum: float, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of epochs that are kept."""
    tree = experiment("experts.epochs=3", "experts.keep=all", "experts.augment=null", f"experts.momentum={momentum}")
    run(store, [unit for unit in Graph(tree).units() if unit.kind in DATA_KINDS])
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "expert"]
    data, trace = data_size(tree, None), Estimator(TEXT_DIM).trace
    assert stage.traffic is not None
    planned = stage.traffic(tree, trace, data, None).writes
    written, write = [0], Store.write

    def counted(self: Store, key: str, content: bytes) -> None:
        written[0] += len(content)
        write(self, key, content)

    monkeypatch.setattr(Store, "write", counted)
    run(store, [units_of(tree, "expert")[0]])
    assert planned == pytest.approx(written[0], rel=0.05)


def test_counts_of_what_an_expert_forgets_are_planned() -> None:
    """As large as they are in memory, in the checkpoint before the first epoch and after each of three."""
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "expert"]
    assert stage.traffic is not None
    entry = sum(tensor.nbytes for tensor in ForgettingCounts.empty(1).as_tensors().values())
    for captions, entries in (("one", 48), ("all", 5 * 48)):
        tree = experiment("experts.epochs=3", f"experts.captions={captions}")
        with_data, without = (
            stage.traffic(tree, Estimator(TEXT_DIM).trace, data, None).writes for data in (data_size(tree, None), None)
        )
        assert with_data - without == 4 * entries * entry
