"""Checkpoints of several ranks."""

from typing import Any

import pytest

from vldd_dist.artifacts.checkpoints import AlreadyCommitted
from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.sharding.checkpoints import newest_checkpoint, save_together
from vldd_dist.sharding.ranks import SOLO, Ranks
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


def test_checkpoints_that_another_attempt_stores_meanwhile_are_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes those that were listed, and this attempt must not start from the beginning."""
    other, own = (UnitWriter(store, "thing", "u", {}, {}) for _ in range(2))
    for step in (1, 2):
        other.checkpoints.save(step, {"state": b"1"}, {})
    keys, listed = own.checkpoints.keys, list[list[str]]()

    def then_two_more() -> list[str]:
        listed.append(keys())
        if len(listed) == 1:
            for step in (3, 4):
                other.checkpoints.save(step, {"state": b"2"}, {})
        return listed[-1]

    monkeypatch.setattr(own.checkpoints, "keys", then_two_more)
    found = newest_checkpoint(own, SOLO)
    assert found is not None
    assert (found.step, found.read("state"), len(listed)) == (4, b"2", 2)


def test_damaged_checkpoints_are_each_tried_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = UnitWriter(store, "thing", "u", {}, {})
    writer.checkpoints.save(1, {"state": b"1"}, {})
    # Another attempt stores its own again and again, or the removal is not seen at once.
    monkeypatch.setattr(writer.checkpoints, "remove", lambda key: None)
    read: list[str] = []
    monkeypatch.setattr(writer.checkpoints, "read", lambda key, wanted: read.append(key))
    assert newest_checkpoint(writer, SOLO) is None
    assert read == writer.checkpoints.keys()
