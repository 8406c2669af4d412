"""Sets that are made or used from Python: students use the tensors of the loss only, by the code that learned them; what
cannot be loaded is not saved; frozen parts of towers stay in evaluation mode."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.distilled_sets import RECIPE, distilled_set, with_similarity
from vldd_dist import build_towers, load_distilled, plugins, train_on
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.errors import StoreError
from vldd_dist.models.losses.base import Learned
from vldd_dist.models.losses.infonce import InfoNCE


def losses_on(distilled: DistilledSet) -> list[float]:
    torch.manual_seed(0)
    return train_on(distilled, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), nn.Linear(8, 4))


def test_students_do_not_use_what_the_objective_learned(tmp_path: Path) -> None:
    """Whatever its name is: this loss has a temperature of its own, which is not learned."""
    plain, other = distilled_set(), distilled_set()
    other.shared["log_temperature"] = torch.tensor([2.0])
    save(other, str(tmp_path / "set"))
    loaded = load_distilled(str(tmp_path / "set"))
    assert set(loaded.shared) == {"log_rates", "log_temperature"}
    assert losses_on(loaded) == losses_on(plain)
    features = torch.randn(4, 6), torch.randn(4, 6)
    assert loaded.loss(*features, {}, loaded.shared) == plain.loss(*features)
    assert loaded.sizes == plain.sizes == {"images": 5 * 3 * 16 * 16 * 4, "texts": 5 * 8 * 4}
    learned = distilled_set()
    learned.shared["log_temperature"] = torch.tensor([2.0])
    learned.recipe = RECIPE.model_copy(update={"loss": {"name": "infonce", "learn_temperature": True}})
    assert losses_on(learned) != losses_on(plain)
    assert learned.sizes == plain.sizes | {"log_temperature": 4}


class Mine(InfoNCE):
    name: str = "mine"
    revision: int = 2


def test_a_set_is_not_trained_on_by_another_revision_of_its_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.LOSSES.entries, "mine", f"{__name__}:Mine")
    shown, url = distilled_set(), str(tmp_path / "set")
    shown.recipe = RECIPE.model_copy(update={"loss": {"name": "mine", "revision": 2}})
    save(shown, url)
    assert losses_on(load_distilled(url))
    monkeypatch.setattr(Mine.model_fields["revision"], "default", 3)
    with pytest.raises(StoreError, match=r"learned with revision 2 of the loss mine, and revision 3 is installed: install the"):
        load_distilled(url)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda one: one.rows.update(texts=one.texts.double()), r"'texts' must be \(5, D\) float32"),
        (lambda one: one.rows["images"].fill_(torch.nan), "'images' has values that are infinite or no numbers"),
        (lambda one: one.captions.pop(), "4 captions for 5 pairs"),
        (lambda one: one.shared.update(log_rates=torch.full((2,), torch.inf)), "'log_rates' has values that are infinite"),
        (
            lambda one: setattr(one, "recipe", RECIPE.model_copy(update={"image_weights": "in the set"})),
            "the recipe says that the image tower's weights are in the set, and it has none",
        ),
        (lambda one: setattr(one, "start_images", torch.zeros(4, 3, 16, 16, dtype=torch.uint8)), "'start_images' must have 5"),
    ],
)
def test_a_set_that_cannot_be_loaded_is_not_saved(
    change: Callable[[DistilledSet], object], sentence: str, tmp_path: Path
) -> None:
    shown = distilled_set()
    change(shown)
    with pytest.raises(StoreError, match=sentence):
        save(shown, str(tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_pairs_that_lack_columns_of_their_similarity_are_not_trained_on() -> None:
    shown = with_similarity({"kind": "full"})
    shown.rows = {name: rows[:4] for name, rows in shown.rows.items()}
    with pytest.raises(ValueError, match=r"'similarity' must be \(4, 4\) float32"):
        losses_on(shown)


def test_a_set_with_some_of_its_learned_tensors_is_not_trained_on() -> None:
    """Without any of them it has real pairs, with which the loss uses its initial values."""
    shown = with_similarity({"kind": "full"})
    shown.recipe = RECIPE.model_copy(update={"loss": shown.recipe.loss | {"learn_temperature": True}})
    with pytest.raises(ValueError, match=r"'log_temperature' must be \(1,\) float32"):
        losses_on(shown)
    shown.rows = {name: shown.rows[name] for name in ("images", "texts")}
    assert losses_on(shown)


class Biased(InfoNCE):
    """Learns a tensor of its own, and no temperature."""

    name: str = "biased"

    def learned_shared(self) -> dict[str, Learned]:
        return {"bias": Learned(torch.zeros(1), 0.1)}


def test_a_loss_may_learn_another_tensor_than_its_temperature() -> None:
    features = torch.randn(4, 6), torch.randn(4, 6)
    assert Biased()(*features, {}, {"bias": torch.zeros(1)}) == InfoNCE()(*features)


def test_frozen_parts_in_evaluation_mode_stay_in_it() -> None:
    """Else dropout would be active in a frozen backbone. What is in training mode, or trained, is in training mode."""
    modes: dict[str, set[bool]] = {"frozen": set(), "frozen in training mode": set(), "head": set()}

    class Watched(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.layer = name, nn.Linear(4, 4)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                modes[self.name].add(self.training)
            return self.layer(features)

    frozen, other = Watched("frozen").requires_grad_(False).eval(), Watched("frozen in training mode").requires_grad_(False)
    tower = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4), frozen, other, Watched("head").eval())
    train_on(distilled_set(), tower, nn.Linear(8, 4))
    assert modes == {"frozen": {False}, "frozen in training mode": {True}, "head": {True}}
    assert not tower.training


def test_pairs_of_phases_are_no_single_data_set() -> None:
    shown = distilled_set()
    shown.rows["phase"] = torch.tensor([0, 0, 1, 1, 1])
    assert [len(of_phase) for of_phase in shown.as_datasets()] == [2, 3]
    with pytest.raises(ValueError, match=r"learned in 2 phases: train on each of `as_datasets\(\)`"):
        shown.as_dataset()


def test_the_towers_of_a_set_keep_the_statistics_of_their_norms_in_training_mode() -> None:
    """As students do, so that a loop of one's own begins with `.train()`."""
    shown = distilled_set()
    shown.recipe = RECIPE.model_copy(update={"image_model": "test_efficientnet", "image_size": 32})
    tower, _ = build_towers(shown)
    norms = [layer for layer in tower.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    tower.train()
    assert tower.backbone.training
    assert not any(layer.training for layer in norms)
