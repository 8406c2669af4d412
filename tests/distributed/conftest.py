"""Groups of ranks, one of each size for all tests, because starting one takes seconds."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vldd_dist.store.store import Store
from vldd_dist.testing.group import Group


@pytest.fixture(scope="session")
def group() -> Iterator[Callable[[int], Group]]:
    """world size -> a group of that many processes."""
    groups: dict[int, Group] = {}

    def of(world: int) -> Group:
        if world not in groups:
            groups[world] = Group(world)
        return groups[world]

    yield of
    for one in groups.values():
        one.close()


@pytest.fixture
def copy(prepared: Store, tmp_path: Path) -> Callable[[str], Store]:
    """name -> a copy of the module's prepared store, in a folder of that name."""

    def make(name: str) -> Store:
        shutil.copytree(prepared.root, tmp_path / name)
        return Store(str(tmp_path / name))

    return make
