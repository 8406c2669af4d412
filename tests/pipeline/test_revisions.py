"""A revision of a plug-in that a description sets is refused before anything runs, and is still read in an earlier run's."""

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.revisions import check_revisions, revisions_in
from vldd_dist.planner.plan import plan
from vldd_dist.plugins import CORESETS
from vldd_dist.ray_backend.run import run_description
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of


class Revised(Coreset):
    name: str = "revised"
    revision: int = 2

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        return torch.arange(count)


@pytest.fixture(autouse=True)
def entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CORESETS.entries, "revised", f"{__name__}:Revised")


def test_a_revision_that_the_class_lacks_is_refused_before_anything_runs(store: Store) -> None:
    """All workers would refuse the unit, after the experts have been trained. The graph is made, for the report of a run from
    before the revision was raised."""
    other = experiment("coresets.methods=[{name: revised, revision: 1}]")
    assert units_of(other, "coreset")[0].spec["method"] == {"name": "revised", "revision": 1}
    sentence = r"revised\.revision: the class has 2, and the description 1: leave `revision` out of the description"
    with pytest.raises(ConfigError, match=sentence):
        plan(other, None)
    with pytest.raises(ConfigError, match=sentence):
        run_description(other, store, Console(quiet=True))
    assert store.fs.find(store.root) == []


def test_the_revision_of_the_class_is_accepted() -> None:
    for chosen in ("revised", "{name: revised, revision: 2}"):
        check_revisions(units_of(experiment(f"coresets.methods=[{chosen}]"), "coreset"))


def test_only_whole_numbers_are_revisions_of_plugins() -> None:
    spec = {"source": {"name": "hf", "revision": "0abc"}, "parts": [{"objective": {"name": "mine", "revision": 3}}]}
    assert list(revisions_in(spec)) == [("mine", 3)]
