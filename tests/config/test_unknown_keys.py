"""The error for an unknown key says what the key probably means."""

import re
from pathlib import Path

import pytest

from vldd_dist.config.loading.known_keys import known_keys
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.loading.unknown_keys import OTHER_NAMES
from vldd_dist.errors import ConfigError
from vldd_dist.plugins import SOURCES


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["distill.objective.name=bilevel"],
            "distill.objective: expert_epochs, max_start_epoch belong to trajectory_matching, not to bilevel: remove them",
        ),
        (
            "data.source={name: coco, annotations: a, images: b}",
            "data.source: annotations, images belong to karpathy, not to coco: rem",
        ),
        (
            "data.source={name: karpathy, path: a}",
            "data.source: path belongs to folder, hf or table, not to karpathy: remove it",
        ),
        ("data.source={name: hf, dataset: a}", "data.source.dataset: unknown key; its keys are name, path"),
        ("data.source={name: shards, path: a}", "data.source: path belongs to folder, hf or table, not to shards: remove it"),
        ("distill.inner_steps=8", "distill.inner_steps: unknown key; did you mean distill.objective.inner_steps?"),
        ("distill.syn_steps=8", "did you mean distill.objective.inner_steps?"),
        ("distill.objective.lr_images=0.1", "did you mean distill.lr_images?"),
        ("data.batch_size=64", "experts.batch_size, distill.batch_size or evaluation.batch_size?"),
        ("model.image.pretrained=true", "did you mean model.image.weights?"),
        ("distill.objective.inner_lr=1", "did you mean distill.objective.inner_lr_image or distill.objective.inner_lr_text?"),
        ("experts.lr=1", "did you mean experts.lr_image or experts.lr_text?"),
        ("evaluation.lr=1", "did you mean evaluation.learning_rates?"),
        ("distill.gradient=exact", "did you mean distill.objective.gradient?"),
        ("distill.lr_lr=1", "did you mean distill.objective.lr_rates?"),
        ("experts.num_experts=1", "did you mean experts.count?"),
        ("model.image.image_size=1", "did you mean data.image_size?"),
        ("model.temperature=1", "did you mean model.loss.temperature?"),
        ("resources.gpus=1", "resources: unknown key; did you mean "),
        ("distill.resources.memory=1", "distill.resources.memory: unknown key; its keys are cpus, gpus, gpu_memory_gib"),
        ("distill.initialise={images: noise, text: real}", "text: unknown key; did you mean 'texts'?"),
        ("data.split.train=0.5", "data.split.train: unknown key; did you mean "),
        ("model.image.lora.r=1", "did you mean model.image.lora.rank?"),
        ("model.image.head.dim=1", "model.image.head.dim: unknown key; its keys are kind, dropout"),
        ("stall_timeout=600", "stall_timeout: unknown key; did you mean stall_timeout_seconds?"),
        (
            "model.loss={name: wbce, similarity: {kind: full, rank: 3}}",
            "model.loss.similarity.rank: unknown key; its keys are kind, lr",
        ),
        ("store=x", "store: unknown key; its keys are name, seed, data, model"),
        ("zzz=3", "zzz: unknown key; its keys are name, seed"),
    ],
)
def test_an_unknown_key_names_what_was_meant(overrides: str | list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment("scenes", [overrides] if isinstance(overrides, str) else overrides)
    assert sentence in str(caught.value)


def test_plugins_that_cannot_be_imported_are_left_out(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(known_keys.cache_clear)
    monkeypatch.setitem(SOURCES.entries, "stale", "no_such_package:X")
    known_keys.cache_clear()
    for override in ("experts.cuont=1", "data.source.pth=1"):
        with pytest.raises(ConfigError, match="unknown key"):
            load_experiment("scenes", [override])


def test_the_published_names_are_those_of_the_page() -> None:
    """Rows of one published name and one key of ours."""
    page = Path("docs/hyperparameters.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", page, re.MULTILINE))
    known = known_keys()
    assert set(OTHER_NAMES.values()) <= set(known)
    for name, key in OTHER_NAMES.items():
        assert rows.get(name, key) == key
    assert {"syn_steps", "num_experts", "lr_lr"} <= rows.keys() & OTHER_NAMES.keys()
