"""Models that cannot be trained as described are refused before anything runs."""

import pytest

from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.testing.experiments.tiny_experiment import experiment

SMALL = {"img_size": 32, "embed_dim": 48, "depth": 1, "num_heads": 3}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["model.image.model=beit_base_patch16_224", f"model.image.model_args={SMALL}", "model.image.train=lora"],
            r"model\.image\.lora\.targets: beit_base_patch16_224 does not call blocks\.0\.attn\.qkv, so its adapter would",
        ),
        (
            ["model.image.model=test_vit", "model.image.model_args={img_size: 32, global_pool: ''}"],
            r"model\.image\.model_args: test_vit returns values of shape \(1, \d+, \d+\) for an image, not one vector",
        ),
        (
            ["model.text.revision=abc"],
            r"model\.text\.revision: only a model on a hub has one, and minilm is not on a hub: remove it",
        ),
        (
            ["model.text.model=tiny-clip", "model.text.pooling=eos", "model.text.revision=abc"],
            r"model\.text\.revision: only a model on a hub has one, and tiny-clip is not",
        ),
        (["model.image.std=[1, 1, 0]"], r"model\.image\.std\.2: "),
    ],
)
def test_models_that_cannot_be_trained_as_described_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Graph(experiment(*overrides))


def test_each_image_model_supports_gradient_checkpointing_if_it_is_set() -> None:
    checkpointing = ["model.image.train=full", "model.image.grad_checkpointing=true"]
    refused = r"grad_checkpointing: timm's dla46_c does not support it"
    with pytest.raises(ConfigError, match=f"^model.*{refused}"):
        Graph(experiment("model.image.model=dla46_c", *checkpointing))
    with pytest.raises(ConfigError, match=f"evaluation.image_models: with dla46_c, .*{refused}"):
        Graph(experiment("evaluation.image_models=[dla46_c]", *checkpointing))


@pytest.mark.parametrize("section", ["experts", "distill"])
@pytest.mark.parametrize(
    "drops",
    [
        ["model.image.train=full", "model.image.model_args={img_size: 32, drop_path_rate: 0.2}"],
        ["model.image.train=lora", "model.image.lora.dropout=0.1"],
    ],
)
def test_a_trained_backbone_that_drops_is_refused_on_several_ranks(drops: list[str], section: str) -> None:
    vit = ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", *drops]
    Graph(experiment(*vit))
    with pytest.raises(ConfigError, match=rf"^{section}\.workers: image_backbone\..* drops with probability 0\.\d+, "):
        Graph(experiment(*vit, f"{section}.workers=2"))


def test_a_frozen_backbone_that_would_drop_runs_on_several_ranks() -> None:
    dropping = ["model.image.model=test_vit", "model.image.model_args={img_size: 32, drop_path_rate: 0.2}"]
    head = ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16"]
    Graph(experiment(*dropping, *head, "distill.workers=2"))
