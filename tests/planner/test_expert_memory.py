"""The memory of an expert with a frozen image backbone, compared with the CPU's allocator."""

from typing import Any

import pytest
import torch

from vldd_dist.config.experiment import Experiment
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.planner.estimator import Estimator
from vldd_dist.testing.allocated import allocated_peak

TEXT_DIM, SIZE, ROWS, AT_ONCE = 384, 96, 64, 128


def estimated(weights: str, augment: dict[str, Any] | None) -> tuple[int, DualEncoder]:
    """The activations of an expert in a plan, and its model."""
    image = {"model": "mobilenetv2_100", "weights": weights, "train": "head", "head": {"kind": "linear"}}
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "data": {"source": "scenes", "image_size": SIZE},
            "model": {"image": image, "joint_dim": 16},
            "experts": {"batch_size": ROWS, "augment": augment},
            "evaluation": {"encode_batch": AT_ONCE},
            "distill": {"pairs": [2]},
        }
    )
    drawn = experiment.model.image.model_copy(update={"weights": "random"})
    model = build(experiment.model.model_copy(update={"image": drawn}), TEXT_DIM, None, 0)
    return Estimator(TEXT_DIM).memory(experiment, stage_of("expert"))["activations"], model


@pytest.mark.parametrize(
    ("weights", "augment", "images"), [("given.safetensors", {}, ROWS), ("random", {}, AT_ONCE), ("random", None, AT_ONCE)]
)
def test_images_without_stored_features_pass_the_tower(weights: str, augment: dict[str, Any] | None, images: int) -> None:
    """Those of a step if they are augmented, and those of the validation split if no features are stored."""
    estimate, model = estimated(weights, augment)
    frozen, pixels = FrozenBackbone(model.image_backbone), torch.randint(0, 256, (images, 3, SIZE, SIZE), dtype=torch.uint8)
    frozen.features(model.normalise(pixels))
    measured = allocated_peak(lambda: frozen.features(model.normalise(pixels)))
    assert measured / 1.2 < estimate < measured * 1.2


def test_with_stored_features_no_image_passes_the_tower() -> None:
    estimate, model = estimated("given.safetensors", None)
    features = torch.zeros(AT_ONCE, 1280), torch.zeros(AT_ONCE, TEXT_DIM)
    with torch.no_grad():
        measured = allocated_peak(lambda: model(*features))
    assert measured < estimate < 1 << 20
