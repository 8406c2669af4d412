"""What a plan suggests for a distillation that does not fit is accepted by the run."""

import pytest

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.cost_model.memory_model import peak
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.planner.estimator import Estimator
from vldd_dist.planner.suggestions import suggest

FULL = ["model.image.weights=random", "model.image.train=full", "model.image.head={kind: linear}", "model.joint_dim=64"]


def suggested(fraction: float, *overrides: str) -> str:
    """The suggestion if a GPU has only this fraction of the memory that the distillation takes."""
    sizes = ["data.image_size=64", "distill.pairs=[100]", "distill.batch_size=100", "evaluation.batch_size=16"]
    described = load_experiment("scenes", [*FULL, *sizes, "evaluation.encode_batch=16", *overrides])
    stage, estimator = stage_of("distillation"), Estimator(128)
    return suggest(described, stage, int(fraction * peak(estimator.memory(described, stage))), estimator)


@pytest.mark.parametrize(("model", "is_smooth"), [("test_resnet", False), ("test_nfnet", True)])
def test_finite_differences_are_suggested_for_a_smooth_student_only(model: str, is_smooth: bool) -> None:
    sentence = suggested(0.8, f"model.image.model={model}")
    assert ("distill.objective.gradient: finite_difference" in sentence) == is_smooth
    assert "distill.workers: 2" in sentence


def test_gradient_checkpointing_is_suggested_for_a_model_that_has_it_only() -> None:
    """Together with other changes, which are enough without it."""
    assert "model.image.grad_checkpointing: true" in suggested(0.001, "model.image.model=test_nfnet")
    sentence = suggested(0.1, "model.image.model=dla46x_c")
    assert sentence.startswith("set distill.workers: 8, ")
    assert "grad_checkpointing" not in sentence


def test_several_ranks_are_not_suggested_for_a_trained_backbone_that_drops() -> None:
    vit = ["model.image.model=test_vit", "model.image.model_args={img_size: 64, drop_path_rate: %s}"]
    dropping, plain = (suggested(0.8, vit[0], vit[1] % rate) for rate in (0.1, 0))
    assert "distill.workers" in plain
    assert "distill.workers" not in dropping
