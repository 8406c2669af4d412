"""Groups of ranks. All tests share one group of each size, because starting one takes seconds."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.distributed.fsdp import FSDPModule

from vldd_dist.store.store import Store
from vldd_dist.testing.processes.group import Group


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


@pytest.fixture(autouse=True)
def _usable(request: pytest.FixtureRequest) -> None:
    """Skip tests that need a newer torch than the lowest version that the package allows."""
    asked = str(request.node.callspec.params) if hasattr(request.node, "callspec") else ""
    if "fsdp" in asked and not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        pytest.skip("this torch's FSDP2 cannot sum gradients by gloo")


@pytest.fixture
def copy(prepared: Store, tmp_path: Path) -> Callable[[str], Store]:
    """name -> a copy of the module's prepared store, in a folder of that name."""

    def make(name: str) -> Store:
        shutil.copytree(prepared.root, tmp_path / name)
        return Store(str(tmp_path / name))

    return make
