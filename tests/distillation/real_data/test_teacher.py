"""The experts as teachers: what their similarities cost."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.distillation.objectives.bilevel import Bilevel
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.real_data.teacher import Teacher
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import ParameterView

HEAD = {"kind": "projection", "dropout": 0.5}
MODEL = {
    "image": {"model": "test_vit", "model_args": {"img_size": 32}, "weights": "random", "train": "head", "head": HEAD},
    "text": {"head": HEAD},
    "joint_dim": 16,
}
TEXT_DIM = 8


def student(seed: int) -> DualEncoder:
    return build(ModelSettings.model_validate(MODEL), TEXT_DIM, None, seed)


def trajectory(seed: int) -> Any:
    """The trajectory of an expert after one epoch."""
    view = ParameterView(student(seed))
    return SimpleNamespace(epochs=(1,), snapshot=lambda epoch, tower: view.as_dict(tower))


@pytest.mark.parametrize("dropout", [True, False])
def test_the_mode_of_the_model_is_switched_at_most_once_for_all_experts(dropout: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student(0)
    unroller = LocalUnroller(model, InfoNCE(), Bilevel(dropout=dropout), None)
    teacher = Teacher(unroller, Experts(3, trajectory))
    generator = torch.Generator().manual_seed(0)
    inputs, texts = (torch.randn(5, width, generator=generator) for width in (model.image_backbone.num_features, TEXT_DIM))
    rows = RealRows(inputs, texts, 5)
    alone = [cosines(*unroller.features(theta, rows)) for theta in teacher.parameters]
    switches, train = [], DualEncoder.train

    def counted(self: DualEncoder, mode: bool = True) -> DualEncoder:
        switches.append(mode)
        return train(self, mode)

    monkeypatch.setattr(DualEncoder, "train", counted)
    assert torch.equal(teacher.similarities(rows), torch.stack(alone).mean(dim=0))
    assert switches == ([False, True] if dropout else [])
    assert model.training is dropout
