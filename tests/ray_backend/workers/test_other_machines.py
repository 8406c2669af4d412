"""A machine that lacks files of the description, or has others than the plan saw: its units may run on another machine."""

import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.planned_groups import pairs, planned
from tests.data.sample_files import pair
from tests.data.small_sources import karpathy
from tests.ray_backend.workers.dropped_reports import Reports
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import mark_store
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.pipeline.stages.data import embedding_group, image_weights
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.ray_backend.workers import worker
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment


def first_group(folder: Path) -> UnitOrder:
    """Of a new folder of images."""
    for name in "bcde":
        pair(folder / f"{name}.jpg", name)
    (first, *_) = planned(pairs(folder))
    return first.order()


def another_folder(folder: Path) -> UnitOrder:
    order = first_group(folder)
    pair(folder / "a.jpg", "a")
    return order


def no_folder(folder: Path) -> UnitOrder:
    order = first_group(folder / "images")
    shutil.rmtree(folder / "images")
    return order


def no_images(folder: Path) -> UnitOrder:
    (first, *_) = planned(karpathy(folder))
    shutil.rmtree(folder / "images")
    return first.order()


def no_disk(folder: Path) -> UnitOrder:
    """Where a disk is not mounted, its folder is empty."""
    (first, *_) = planned(karpathy(folder))
    for file in (folder / "images").iterdir():
        file.unlink()
    return first.order()


def embeddings(model: str) -> UnitOrder:
    text = TextTowerSettings(model=model).model_dump(mode="json")
    spec: dict[str, Any] = {"text": {"model": "bert", "sha256": "0" * 64}}
    shards = WorkUnit("shard_group", {})
    return embedding_group.STAGE.new(experiment(), spec, {"shards": shards}, {"text": text, "batch_size": 1}).order()


def weights(path: Path) -> UnitOrder:
    spec = {"model": "test_vit", "model_args": {}, "sha256": "0" * 64}
    return image_weights.STAGE.new(experiment(), spec, execution={"weights": str(path)}).order()


def other_weights(folder: Path) -> UnitOrder:
    (folder / "x.safetensors").write_bytes(tensors.encode({"w": torch.ones(2)}))
    return weights(folder / "x.safetensors")


CASES: dict[str, tuple[Callable[[Path], UnitOrder], str]] = {
    "a copy of a folder": (another_folder, "or this machine has another copy of it with other times of change"),
    "a folder that is not mounted": (no_folder, "data.source.path: {}/images is not a folder: correct the path"),
    "images that are not mounted": (no_images, "data.source.images: {}/images is not a folder: correct the path"),
    "a disk that is not mounted": (no_disk, "data.source.images: {}/images is missing or empty on the machine"),
    "another encoder": (
        lambda folder: embeddings("tiny-clip"),
        "tiny-clip has changed since the run was planned, or is",
    ),
    "an encoder that is not mounted": (
        lambda folder: embeddings(f"{folder}/bert"),
        "bert has changed since the run was",
    ),
    "an encoder that is not installed": (lambda folder: embeddings("minilm"), "model.text.model: minilm needs the extra"),
    "other weights": (
        other_weights,
        "x.safetensors: has changed since the run was planned, or is another file on",
    ),
    "weights that are not mounted": (lambda folder: weights(folder / "no"), "{}/no: no such file: name a .safetensors file"),
}


@pytest.mark.parametrize(("make", "sentence"), CASES.values(), ids=CASES)
def test_its_units_may_run_on_another(
    make: Callable[[Path], UnitOrder], sentence: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vldd_dist.models.text.identity.MINILM_PACKAGE", "no_such_package")
    data = tmp_path / "data"
    data.mkdir()
    mark_store(store)
    found = worker.run_order(make(data), store, Reports(), "n1")  # type: ignore[arg-type]
    assert (found.status, found.exit_code) == ("broken", 4)
    assert sentence.format(data) in found.cause
    assert f"on the machine {platform.node()}" in found.cause
    assert store.keys("units") == []
