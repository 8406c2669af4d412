"""No setting of an objective is ignored: another value of it changes the gradient of an outer step. Trajectory matching has a
test of its own (tests/distillation/test_outer_loop.py)."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.distributed.feature_runs import FIVE_PAIRS, found_gradient, with_inputs
from vldd_dist.distillation.objectives.outer_problem import OuterGradient
from vldd_dist.plugins import OBJECTIVES
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store

STEP = 3
# For each objective its settings, and other values of them.
SETTINGS: dict[str, dict[str, tuple[Any, Any]]] = {
    "bilevel": {
        "real_batch_size": (7, 6),
        "inner_steps": (3, 2),
        "skipped_steps": (9, 0),
        "inner_lr_image": (0.1, 0.2),
        "inner_lr_text": (0.1, 0.2),
        "student_momentum": (0.9, 0.5),
        "student_weight_decay": (5e-4, 0.05),
        "dropout": ("false", "true"),
        "noise_scale": (0.5, 0.2),
        "teacher_weight": (0.5, 0.2),
    },
    "covariance_matching": {
        "real_batch_size": (7, 6),
        "rho": (1.0, 1.5),
        "mean_weight": (0.1, 0.3),
        "train_model": ("true", "false"),
        "lr_encoder": (0.01, 0.02),
        "lr_heads": (0.1, 0.2),
        "reset_every": (50, 2),
    },
    "whitened_matching": {"ridge": (1.0, 0.1), "caption_subsets": (5, 3), "mean_weight": (0.1, 0.3)},
    "distribution_matching": {
        "real_batch_size": (7, 6),
        "pairs_per_step": (3, 2),
        "last_epoch": (3, 2),
        "sum_weight": (0.8, 0.6),
        "difference_weight": (0.8, 0.6),
        "width": (0.5, 0.7),
        "clip": (1.0, 1e-3),
    },
}
# They act after the gradient is computed; or, `gradient`, change only how it is computed.
ELSEWHERE = {"name", "lr_rates", "gradient"}
# What another value needs in the rest of the description.
BESIDE = {"student_momentum": ["evaluation.momentum=0.5"], "student_weight_decay": ["evaluation.weight_decay=0.05"]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_nfnet", num_classes=0).state_dict(), path)
    return path


def overrides(name: str, weights: Path) -> list[str]:
    settings = ", ".join(f"{key}: {value}" for key, (value, _) in SETTINGS[name].items())
    # lr_encoder needs a backbone that is trained.
    train = "full" if name == "covariance_matching" else "head"
    return [
        *FIVE_PAIRS,
        f"distill.objective={{name: {name}, {settings}}}",
        "model.text.head.dropout=0.2",
        f"model.image.train={train}",
        f"model.image.weights={weights}",
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Store:
    """Of all objectives: they have the data and the experts in common."""
    store = Store(str(tmp_path_factory.mktemp("prepared")))
    for name in SETTINGS:
        with_inputs(store, overrides(name, weights))
    return store


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_changes_the_gradient(name: str, prepared: Store, weights: Path) -> None:
    plain = overrides(name, weights)
    wanted = found_gradient(SOLO, prepared.url, plain, STEP)
    objective = OBJECTIVES.load(name)
    assert set(SETTINGS[name]) == set(objective.model_fields) - set(objective.execution_names()) - ELSEWHERE
    for key, (_, other) in SETTINGS[name].items():
        changes = [f"distill.objective.{key}={other}", *BESIDE.get(key, [])]
        found = found_gradient(SOLO, prepared.url, [*plain, *changes], STEP)
        assert not is_same(found, wanted), key


def is_same(one: OuterGradient, other: OuterGradient) -> bool:
    return one.rows.tolist() == other.rows.tolist() and all(
        torch.allclose(gradient, other.row_gradients[key], rtol=1e-4, atol=0) for key, gradient in one.row_gradients.items()
    )
