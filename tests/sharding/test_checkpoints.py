"""Checkpoints of several ranks."""

from typing import Any

import pytest

from vldd_dist.artifacts.checkpoints import AlreadyCommitted
from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.sharding.checkpoints import save_together
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.async_writer import AsyncWriter
from vldd_dist.store.store import Store


class SecondRank(Ranks):
    """Rank 1 of two; whether rank 0 found the unit committed is given."""

    def __init__(self, committed: bool) -> None:
        super().__init__(1, 2)
        self.committed = committed

    def broadcast(self, value: Any) -> Any:
        return self.committed

    def all_gather(self, value: Any) -> list[Any]:
        return [{}, value]


@pytest.mark.parametrize("committed", [True, False])
def test_all_ranks_stop_at_a_commit_or_none_does(committed: bool, store: Store) -> None:
    """The commit may happen between the requests of two ranks. A rank that stopped alone would let the others wait."""
    UnitWriter(store, "thing", "u", {}, {}).commit(Facts())
    writer = UnitWriter(store, "thing", "u", {}, {})

    def save() -> None:
        save_together(writer, SecondRank(committed), 1, {"state": b"1"}, lambda: ({}, {}), AsyncWriter())

    if committed:
        with pytest.raises(AlreadyCommitted):
            save()
    else:
        save()
    assert [key.endswith("checkpoint-00000001/state") for key in store.keys("units/thing/u") if writer.attempt in key] == (
        [] if committed else [True]
    )
