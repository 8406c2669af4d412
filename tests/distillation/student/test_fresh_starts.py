"""Students of one run start as those of the evaluation do, whose models are built from different seeds."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.distillation.objectives.bilevel import Bilevel
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import ParameterView

VIT = {"model": "test_vit", "model_args": {"img_size": 32}, "weights": "random", "head": {"kind": "linear"}}


def starts(image: dict[str, Any], weights: dict[str, Tensor] | None, *seeds: int) -> list[dict[str, Tensor]]:
    """A student's parameters by name, for each seed."""
    model = build(ModelSettings.model_validate({"image": image, "joint_dim": 16}), 8, weights, 0)
    start = LocalUnroller(model, InfoNCE(), Bilevel(), None).fresh_starts()
    return [dict(zip(ParameterView(model).names, start(seed), strict=True)) for seed in seeds]


@pytest.mark.parametrize("train", ["lora", "full"])
def test_each_student_has_its_own_adapters_or_random_backbone(train: str) -> None:
    one, other, again = starts(VIT | {"train": train}, None, 1, 2, 1)
    assert sum(("lora_A" if train == "lora" else "image_backbone") in name for name in one) > 1
    for name in one:
        assert torch.equal(one[name], again[name]), name
        if "lora_B" in name:
            assert not one[name].any()
        else:
            # Only layer norms and some biases start with constants.
            constant = bool((one[name] == one[name].flatten()[0]).all())
            assert torch.equal(one[name], other[name]) == constant, name


def test_a_trained_backbone_with_given_weights_starts_from_them() -> None:
    given = create_backbone("test_vit", {"img_size": 32}, pretrained=False, seed=1).state_dict()
    for found in starts(VIT | {"train": "full", "weights": "given.safetensors"}, given, 1, 2):
        assert all(torch.equal(found[f"image_backbone.{name}"], given[name]) for name in given)
