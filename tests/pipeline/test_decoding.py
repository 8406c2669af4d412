"""Stages that only encode images do not decode them in the thread that runs the model."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.data.prepared.dataset import EncodedImage
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> set[threading.Thread]:
    """The threads in which images are decoded."""
    found, pixels = set(), EncodedImage.pixels
    monkeypatch.setattr(EncodedImage, "pixels", lambda self: found.add(threading.current_thread()) or pixels(self))
    return found


def execute_here(unit: WorkUnit, store: Store) -> None:
    execute(unit.order(), store, lambda event: None)


def test_features_of_an_expert(without: Callable[[str], Store], threads: set[threading.Thread]) -> None:
    (unit,) = units_of(experiment(), "features")
    execute_here(unit, without("features"))
    assert threads
    assert threading.main_thread() not in threads


def test_features_of_a_frozen_backbone(tmp_path: Path, threads: set[threading.Thread]) -> None:
    store, weights = Store(str(tmp_path / "store")), tmp_path / "weights.safetensors"
    weights.write_bytes(tensors.encode(create_backbone("test_nfnet", {}, pretrained=False, seed=7).state_dict()))
    tree = experiment(
        f"model.image.weights={weights}", "model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=8"
    )
    run(store, [unit for unit in Graph(tree).units() if unit.kind in ("shard_group", "image_weights")])
    execute_here(units_of(tree, "feature_group")[0], store)
    assert threads
    assert threading.main_thread() not in threads
