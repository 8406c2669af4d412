"""Sets whose tensors or loss come from plug-ins: students use the tensors of the loss only, and the code that learned them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.distilled_sets import RECIPE, distilled_set
from vldd_dist import load_distilled, plugins, train_on
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.errors import StoreError
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
