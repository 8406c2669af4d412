"""Starts of images and texts, joint and separate."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.distributed.stopping import execute_until
from vldd_dist.data.medoids import medoids
from vldd_dist.distillation.initialisations import k_means, starting_pairs
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of, workspace
from vldd_dist.testing.experiments.tiny_units import digests


def start(store: Store, initialise: str) -> SyntheticPairs:
    tree = experiment(f"distill.initialise={initialise}")
    (unit,) = units_of(tree, "distillation")
    context = workspace(store, unit)
    pairs, _ = starting_pairs(distillation_context(context, tree.distill.distillation_settings(), context.build_model(0)))
    return pairs


@pytest.mark.parametrize("images", ["real", "noise", "k_means"])
@pytest.mark.parametrize("texts", ["real", "noise", "k_means"])
def test_each_modality_equals_that_of_its_own_initialisation(images: str, texts: str, finished: Store) -> None:
    """The tensors are bit-identical to those of one start for both. If both are real, they belong to the same pairs."""
    if {images, texts} == {"real", "k_means"}:
        return
    found = start(finished, f"{{images: {images}, texts: {texts}}}")
    of_images, of_texts = start(finished, images), start(finished, texts)
    assert torch.equal(found.images, of_images.images)
    assert torch.equal(found.texts, of_texts.texts)
    assert (found.start["images"], found.start["texts"]) == (images, texts)
    of_real = {**of_images.start, **of_texts.start} if images == "noise" else of_images.start
    assert found.start.get("keys") == of_real.get("keys")
    assert found.start.get("captions") == of_real.get("captions")
    assert ("keys" in found.start) is ((images, texts) != ("noise", "noise"))


def test_a_resumed_run_starts_from_its_first_choice(finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clustering a large data set takes longer than the outer steps between two checkpoints."""
    (unit,) = units_of(experiment("distill.initialise=k_means"), "distillation")
    runs, kept = list[int](), []

    def counted(features: Tensor, count: int, seed: int) -> list[int]:
        runs.append(count)
        return medoids(features, count, seed)

    monkeypatch.setattr(k_means, "medoids", counted)
    for name, stops in (("straight", [None]), ("broken", [2, 4, None])):
        shutil.copytree(finished.root, tmp_path / name)
        store = Store(str(tmp_path / name))
        for stop in stops:
            execute_until(SOLO, store.url, unit, stop)
        kept.append(digests(store, unit))
        assert len(runs) == 1
        runs.clear()
    assert kept[1] == kept[0]


def test_starts_differ(finished: Store) -> None:
    starts = [start(finished, name) for name in ("real", "noise", "k_means")]
    for tensors in ([one.images for one in starts], [one.texts for one in starts]):
        assert not torch.equal(tensors[0], tensors[1])
        assert not torch.equal(tensors[0], tensors[2])


def test_the_modality_that_is_not_named_is_initialised_with_real_pairs(finished: Store) -> None:
    found = start(finished, "{images: noise}")
    assert (found.start["initialise"], found.start["images"], found.start["texts"]) == ("by_modality", "noise", "real")
    assert torch.equal(found.texts, start(finished, "real").texts)


def test_features_are_an_input_only_if_the_initialisation_needs_them() -> None:
    for initialise, needed in (("{images: k_means, texts: noise}", True), ("{images: noise, texts: real}", False)):
        (unit,) = units_of(experiment(f"distill.initialise={initialise}"), "distillation")
        assert ("features" in unit.inputs) is needed


@pytest.mark.parametrize(
    ("initialise", "sentence"),
    [
        ("{images: real, texts: k_means}", "distill.initialise: images: real and texts: k_means choose different real pairs"),
        ("{images: nois}", "there is no initialisation 'nois'"),
        ("{images: noise, text: real}", "text: unknown key; did you mean 'texts'?"),
        ("{images: {name: noise, scale: 2}}", "scale: unknown key"),
    ],
)
def test_a_start_that_does_not_fit_is_a_one_sentence_error(initialise: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(f"distill.initialise={initialise}")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
