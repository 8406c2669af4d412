"""How a unit's objects are written."""

import threading

import pytest

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.store import objects
from vldd_dist.store.objects import ObjectInfo, sha256_hex
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS


def test_an_object_is_hashed_while_it_is_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, hashed, write = UnitWriter(store, "expert", "0" * 16, {}, {}), threading.Event(), Store.write
    writer.put("first", b"marks the store")

    def hash_and_say(data: bytes | memoryview) -> str:
        hashed.set()
        return sha256_hex(data)

    def write_when_hashed(self: Store, key: str, data: bytes) -> None:
        assert hashed.wait(HANG_SECONDS)
        write(self, key, data)

    monkeypatch.setattr(objects, "sha256_hex", hash_and_say)
    monkeypatch.setattr(Store, "write", write_when_hashed)
    found = writer.put("second", b"data")
    assert found == ObjectInfo.of(found.key, b"data")
    assert store.read(found.key) == b"data"
