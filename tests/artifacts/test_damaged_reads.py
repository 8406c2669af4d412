"""Bytes that are right in the store and arrive damaged: a bad network card or memory must not remove a checkpoint."""

from typing import Any

import pytest

from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.sharding.checkpoints import newest_checkpoint
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store import objects
from vldd_dist.store.store import Store


def test_what_arrives_damaged_once_is_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests, whole objects, blocks, and the records and objects of checkpoints."""
    monkeypatch.setattr(objects, "BLOCK_BYTES", 100)
    data = bytes(range(250))
    committed, running = (UnitWriter(store, "thing", unit, {}, {}) for unit in ("committed", "running"))
    committed.put("large", data)
    committed.put("small", data[:10])
    committed.commit(Facts())
    for step in (50, 100):
        running.checkpoints.save(step, {"rows": data}, {})
    before, flipped = store.keys("units"), set[tuple[Any, ...]]()

    def flipping(method: Any) -> Any:
        def read(self: Store, *request: Any) -> bytes:
            found: bytes = method(self, *request)
            if request in flipped:
                return found
            flipped.add(request)
            return bytes([found[0] ^ 1]) + found[1:]

        return read

    for name in ("read", "read_range"):
        monkeypatch.setattr(Store, name, flipping(getattr(Store, name)))
    reader = UnitReader(store, "thing", "committed")
    assert (reader.read("large"), reader.read("small")) == (data, data[:10])
    assert reader.read_ranges("large", [(50, 220)]) == [data[50:220]]
    checkpoint = newest_checkpoint(UnitWriter(store, "thing", "running", {}, {}), SOLO)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.read("rows")) == (100, data)
    assert store.keys("units") == before
    assert len(flipped) == 1 + 2 + 3 + 2
