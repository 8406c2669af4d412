"""Fixtures of the tests with real Ray processes: the stores of uninterrupted experiments, and a local cluster."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cluster.local import start_cluster
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.main_job import LONGER, LONGEST, RANKS
from tests.distributed.stopping import execute_until
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.ray_backend.run import run_description
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.servers.listening import running_processes
from vldd_dist.testing.servers.ports import free_port


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted experiment, whose units ran one after the other without Ray."""
    return _uninterrupted(tmp_path_factory.mktemp("undisturbed"), LONGER)


@pytest.fixture(scope="session")
def undisturbed_longest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the longest distillation."""
    return _uninterrupted(tmp_path_factory.mktemp("longest"), LONGEST)


def _uninterrupted(folder: Path, overrides: list[str]) -> Path:
    store, tree = Store(str(folder / "store")), experiment(*overrides)
    run(store, Graph(tree).units())
    # All units are done, so that this run only writes the report.
    assert run_description(tree, store, Console(quiet=True)) == 0
    return Path(store.root)


@pytest.fixture(scope="session")
def before_distillation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an experiment on ranks, without the distillation and the units that need it."""
    units, store = Graph(experiment(*RANKS)).units(), Store(str(tmp_path_factory.mktemp("before") / "store"))
    run(store, [unit for unit in units if unit.kind not in ("distillation", "publication", "evaluation")])
    return Path(store.root)


@pytest.fixture(scope="session")
def distilled_on_ranks(before_distillation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same store with the distillation, which two ranks ran without interruption."""
    store = tmp_path_factory.mktemp("distilled") / "store"
    shutil.copytree(before_distillation, store)
    (unit,) = units_of(experiment(*RANKS), "distillation")
    group = Group(2)
    try:
        group.run(execute_until, str(store), unit, None)
    finally:
        group.close()
    return store


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """A head that runs no units, and two worker nodes with one CPU each."""
    earlier = running_processes()
    local = LocalCluster(start_cluster(2, 1, port := free_port(), free_port), f"http://127.0.0.1:{port}", earlier)
    yield local
    local.nodes.shutdown()
