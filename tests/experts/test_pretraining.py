"""Pretraining on attributes: the tower learns them, gives bit-identical results, and sees no scene of the experiment."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vldd_dist.config.sections.pretrain import PretrainSettings
from vldd_dist.data.scenes import draw_scenes
from vldd_dist.errors import DivergenceError
from vldd_dist.events import Progress, UnitReport
from vldd_dist.experts import pretraining
from vldd_dist.experts.pretraining import PRETRAINING_OFFSET, pretrain_on_attributes
from vldd_dist.models.image.backbone import create_backbone, load_backbone
from vldd_dist.seeding import numpy_generator


def pretrained(
    seed: int = 0, mean: float = 0.5, std: float = 0.25, model: str = "test_nfnet", **changes: Any
) -> tuple[dict[str, Tensor], list[Progress]]:
    """The weights, and the reports of the training."""
    events: list[UnitReport] = []
    weights = pretrain_on_attributes(
        create_backbone(model, {}, pretrained=False, seed=0),
        PretrainSettings(**{"images": 32, "epochs": 4, "batch_size": 12, "lr": 3e-3} | changes),
        image_size=32,
        mean=torch.full((3,), mean),
        std=torch.full((3,), std),
        seed=seed,
        device=torch.device("cpu"),
        report=events.append,
    )
    return weights, [event for event in events if isinstance(event, Progress)]


def test_it_learns_repeats_and_leaves_the_global_generator() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    weights, events = pretrained()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again, _ = pretrained()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    # Three batches per epoch, the last one smaller; each image occurs once.
    assert [event.done for event in events] == [12, 24, 32, 44, 56, 64, 76, 88, 96, 108, 120, 128]
    assert {event.total for event in events} == {128}
    assert [event.epoch for event in events[::3]] == [1, 2, 3, 4]
    # The loss of guessing is ln 2 = 0.69.
    assert events[0].loss == pytest.approx(0.69, abs=0.1)
    assert events[-1].loss < 0.8 * events[0].loss


@pytest.mark.parametrize(
    "model", ["test_resnet", "test_vit", "test_convnext", "regnetx_002", "nf_regnet_b0", "mobilenetv3_small_050"]
)
def test_other_backbones_can_be_pretrained(model: str) -> None:
    """Convolutional networks with and without batch norms, and attention; some have a layer between pooling and classifier."""
    weights, events = pretrained(model=model)
    backbone = create_backbone(model, {}, pretrained=False, seed=1)
    load_backbone(backbone, weights, model)
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())
    losses = [event.loss for event in events if event.loss is not None]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_every_setting_and_the_seed_change_the_weights() -> None:
    ways = [{}, {"images": 31}, {"epochs": 3}, {"batch_size": 13}, {"lr": 2e-3}, {"seed": 1}, {"mean": 0.4}, {"std": 0.3}]
    found = [pretrained(**way)[0].values() for way in ways]
    norms = [float(torch.cat([weight.flatten() for weight in weights]).double().norm()) for weights in found]
    assert len(set(norms)) == len(ways)


def test_a_loss_that_is_not_finite_names_the_setting_to_lower() -> None:
    with pytest.raises(DivergenceError, match=r"pretraining: the loss is (nan|inf) in epoch \d: lower pretrain\.lr"):
        pretrained(lr=1e30)


def test_pretraining_scenes_are_disjoint_from_those_of_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def watched(count: int, seed: int, size: int, offset: int = 0) -> Any:
        drawn.append((count, seed, offset))
        return draw_scenes(count, seed, size, offset=offset)

    monkeypatch.setattr(pretraining, "draw_scenes", watched)
    pretrained(seed=5, epochs=1)
    assert drawn == [(32, 5, PRETRAINING_OFFSET)]
    assert PRETRAINING_OFFSET >= 10**6


def test_each_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []

    def watched(*parts: int | str) -> np.random.Generator:
        orders.append(numpy_generator(*parts).permutation(32).tolist())
        return numpy_generator(*parts)

    monkeypatch.setattr(pretraining, "numpy_generator", watched)
    pretrained(epochs=3)
    assert [sorted(order) for order in orders] == [list(range(32))] * 3
    assert len({tuple(order) for order in orders}) == 3
