"""The GPUs of the machine are compared with the requested ones before anything runs."""

from pathlib import Path

import pytest
import torch

from tests.cli.command import vldd
from vldd_dist.config.loading.load import load_experiment, resource_overrides
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.ray_backend.gpus import compare_gpus
from vldd_dist.testing.experiments.tiny import TINY
from vldd_dist.testing.scripted_executor import make


def set_gpus(count: int, monkeypatch: pytest.MonkeyPatch, usable: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable and count > 0)


@pytest.mark.parametrize(("here", "asked"), [(0, 0), (1, 0), (2, 1)])
def test_gpus_that_are_there_may_be_asked_for(here: int, asked: float, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(here, monkeypatch)
    compare_gpus([make("dataset"), make("expert 0", gpus=asked)])


@pytest.mark.parametrize(("here", "asked"), [(0, 1), (1, 2)])
def test_a_gpu_that_is_not_there_is_refused(here: int, asked: float, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(here, monkeypatch)
    with pytest.raises(ConfigError, match=f"expert 0 asks for {asked} GPU"):
        compare_gpus([make("dataset"), make("expert 0", gpus=asked)])


def test_a_gpu_without_a_usable_driver_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(1, monkeypatch, usable=False)
    compare_gpus([make("dataset")])
    with pytest.raises(ConfigError, match="torch finds none on this machine"):
        compare_gpus([make("expert 0", gpus=1)])


def test_one_option_asks_for_every_stage_that_computes_and_a_key_of_its_own_wins() -> None:
    experiment = load_experiment("scenes", [*TINY, *resource_overrides(1), "experts.resources.gpus=0.5"])
    asked = {unit.kind: unit.resources.gpus for unit in Graph(experiment).units()}
    assert asked.pop("expert") == 0.5
    on_cpus = {kind for kind, gpus in asked.items() if gpus != 1}
    assert on_cpus == {"shard_group", "dataset", "caption_embeddings", "coreset", "publication"}, "none of these runs a network"
    assert load_experiment("scenes", [*TINY, *resource_overrides(None)]) == load_experiment("scenes", TINY)


def test_gpus_that_are_not_there_are_refused_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    set_gpus(0, monkeypatch)
    sets = [part for override in TINY for part in ("--set", override)]
    code, _, err = vldd("run", "scenes", "--store", str(tmp_path / "store"), "--gpus", "1", *sets, capsys=capsys)
    assert (code, "and torch finds none on this machine" in err) == (2, True)
    assert not list((tmp_path / "store").rglob("manifest.json"))
