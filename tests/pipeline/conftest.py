"""A finished tiny experiment, copies of it without some units, and the data that bilevel distillations need."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.bilevel_by_hand import described
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the tiny experiment, which ran without interruption."""
    store = Store(str(tmp_path_factory.mktemp("finished")))
    run(store, Graph(experiment()).units())
    return store


@pytest.fixture
def without(finished: Store, tmp_path: Path) -> Callable[[str], Store]:
    """A copy of the finished store without the units of a kind and the units that need them."""

    def make(kind: str) -> Store:
        copy = tmp_path / f"without-{kind}"
        shutil.copytree(finished.root, copy)
        users = {"expert": ["expert", "features", "coreset", "distillation", "evaluation", "publication"]}
        for gone in users.get(kind, [kind, "evaluation", "publication"]):
            shutil.rmtree(copy / "units" / gone, ignore_errors=True)
        return Store(str(copy))

    return make


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the data set, its captions' embeddings and the features of the frozen backbone, without experts."""
    store = Store(str(tmp_path_factory.mktemp("prepared")))
    run(store, [unit for unit in Graph(described("")).units() if unit.kind in DATA_KINDS])
    return store
