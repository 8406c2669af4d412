"""Whitened covariance matching compared with numpy, on one and on two ranks, and a distillation by it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.distributed.feature_runs import FIVE_PAIRS, compare, start, with_inputs
from tests.distributed.stopping import execute_until
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.context import read_tensors
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of
from vldd_dist.testing.processes.group import Group

SUBSETS, STEP, RIDGE = 3, 5, 0.05
OBJECTIVE = f"distill.objective={{name: whitened_matching, caption_subsets: {SUBSETS}, ridge: {RIDGE}, mean_weight: 0.3}}"


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    weights = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_nfnet", num_classes=0).state_dict(), weights)
    return [*FIVE_PAIRS, OBJECTIVE, "model.image.train=head", f"model.image.weights={weights}"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, overrides: list[str]) -> Store:
    return with_inputs(Store(str(tmp_path_factory.mktemp("prepared"))), overrides)


def root(matrix: np.ndarray) -> np.ndarray:
    """The inverse square root of the matrix with the ridge added, computed from singular values."""
    u, s, v = np.linalg.svd(matrix + RIDGE * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))
    return u @ np.diag(s**-0.5) @ v


def test_the_gradient_is_that_of_the_definition(prepared: Store, overrides: list[str], group: Callable[[int], Group]) -> None:
    context, inputs, pairs = start(SOLO, prepared.url, overrides)
    backbone = inputs.model.double().eval().image_backbone
    images = backbone(inputs.model.normalise(context.dataset.images("train")).double()).detach().numpy()
    every, of_image = context.embeddings.of_split("train")
    first = np.searchsorted(of_image, np.arange(48))
    count = np.bincount(of_image)
    texts = [every.double().numpy()[first + subset % count] for subset in range(SUBSETS)]
    centred = [one - one.mean(0) for one in texts]
    s_v, s_l = np.cov(images.T), sum(one.T @ one for one in centred) / (SUBSETS * 47)
    w_v, w_l = (torch.from_numpy(root(matrix)) for matrix in (s_v, s_l))
    subset = STEP % SUBSETS
    real = torch.from_numpy((images - images.mean(0)).T @ centred[subset] / 47)
    x, y = pairs.images.double().requires_grad_(), pairs.texts.double().requires_grad_()
    features = backbone(x)
    ours = (features - features.mean(0)).T @ (y - y.mean(0)) / 4
    apart = [
        (w_v @ (features.mean(0) - torch.from_numpy(images.mean(0)))).square().sum(),
        (w_l @ (y.mean(0) - torch.from_numpy(texts[subset].mean(0)))).square().sum(),
    ]
    terms = {"covariance": (w_v @ (real - ours) @ w_l).square().sum(), "means": 0.3 * sum(apart)}
    of_images, of_texts = torch.autograd.grad(terms["covariance"] + terms["means"], [x, y])
    values = {name: float(term.detach()) for name, term in terms.items()}
    assert min(values.values()) > 0
    expected = values, list(range(5)), {"images": of_images.float(), "texts": of_texts.float()}
    compare(expected, group, prepared.url, overrides, STEP)


def test_a_distillation_lowers_its_loss_and_resumes_bit_identically(
    prepared: Store, overrides: list[str], tmp_path: Path
) -> None:
    steps = ["distill.outer_steps=12", "distill.validate_every=12", "distill.checkpoint_every=4"]
    (unit,) = units_of(experiment(*overrides, *steps), "distillation")
    ends, readers = [], []
    for name, stops in (("straight", [None]), ("broken", [8, None])):
        shutil.copytree(prepared.root, tmp_path / name)
        store = Store(str(tmp_path / name))
        ends.append([execute_until(SOLO, store.url, unit, stop) for stop in stops][-1])
        readers.append(UnitReader(store, "distillation", unit.id))
    assert ends[1] == ends[0]
    curves, resumed = (read_tensors(reader, "curves.safetensors") for reader in readers)
    assert set(curves) == set(resumed) == {"loss", "terms.covariance", "terms.means"}
    for name, values in curves.items():
        assert len(values) == 12
        assert torch.equal(resumed[name], values), name
    # A third of the steps uses each subset of the captions.
    assert float(curves["loss"][-SUBSETS:].mean()) < 0.99 * float(curves["loss"][:SUBSETS].mean())


def test_a_backbone_that_moves_is_refused() -> None:
    for change in ("model.image.train=full", "model.image.train=lora"):
        with pytest.raises(ConfigError, match=r"whitened_matching computes the real features once: set model\.image\.train to"):
            experiment(*FIVE_PAIRS, OBJECTIVE, "model.image.weights=timm", change)
