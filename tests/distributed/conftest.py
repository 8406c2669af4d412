"""One group of each size for all tests: starting one takes seconds."""

from collections.abc import Callable, Iterator

import pytest

from benchmarks._group import Group


@pytest.fixture(scope="session")
def group() -> Iterator[Callable[[int], Group]]:
    """world -> a group of so many processes."""
    groups: dict[int, Group] = {}

    def of(world: int) -> Group:
        if world not in groups:
            groups[world] = Group(world)
        return groups[world]

    yield of
    for one in groups.values():
        one.close()
