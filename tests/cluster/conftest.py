"""Fixtures of the tests with real Ray processes: the store of an uninterrupted experiment, and a local cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cluster.local import start_cluster
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.test_run import LONGER
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.ray_backend.run import run_description
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run
from vldd_dist.testing.servers.listening import running_processes
from vldd_dist.testing.servers.ports import free_port


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted experiment, whose units ran one after the other without Ray."""
    store, tree = Store(str(tmp_path_factory.mktemp("undisturbed") / "store")), experiment(*LONGER)
    run(store, Graph(tree).units())
    # All units are done, so that this run only writes the report.
    assert run_description(tree, store, Console(quiet=True)) == 0
    return Path(store.root)


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """A head that runs no units, and two worker nodes with one CPU each."""
    earlier = running_processes()
    local = LocalCluster(start_cluster(2, 1, port := free_port(), free_port), f"http://127.0.0.1:{port}", earlier)
    yield local
    local.nodes.shutdown()
