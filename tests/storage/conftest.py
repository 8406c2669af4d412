"""A finished tiny experiment."""

import pytest

from tests.storage.tiny_units import plan
from vldd_dist.orchestration.workspace import execute
from vldd_dist.storage.store import Store


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A tiny experiment, undisturbed."""
    store = Store(str(tmp_path_factory.mktemp("finished")))
    for unit in plan():
        execute(unit.order(), store, lambda event: None)
    return store
