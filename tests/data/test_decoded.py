"""Decoded pictures that processes share: the same batches, decoded once, whatever becomes of the file."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.data.test_dataset import SCENES, assert_same, epoch, prepare
from vldd_dist.data import decoded, stream
from vldd_dist.data.dataset import Dataset
from vldd_dist.data.decoded import DecodedPictures
from vldd_dist.storage.cache import NodeCache
from vldd_dist.storage.store import Store

PICTURES, SIZE = 23, 16
NEEDED = PICTURES * (3 * SIZE**2 + 4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLDD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the pictures that are decoded."""
    keys: list[str] = []
    decode = stream.decode

    def counting(data: bytes, source: str) -> Any:
        keys.append(source)
        return decode(data, source)

    monkeypatch.setattr(stream, "decode", counting)
    return keys


def shared(dataset: Dataset) -> DecodedPictures:
    found = dataset.decoded("train", NEEDED)
    assert found is not None
    return found


def test_two_experts_and_all_epochs_decode_a_picture_once(store: Store, folder: Path, decodings: list[str]) -> None:
    dataset = prepare(store, SCENES)
    first, second = shared(dataset), shared(Dataset(dataset.reader))
    plain = [epoch(dataset, epoch=number) for number in (2, 3)]
    decodings.clear()
    for number, wanted in zip((2, 3), plain, strict=True):
        assert_same(wanted, epoch(dataset, epoch=number, decoded=first))
        assert_same(wanted, epoch(dataset, epoch=number, decoded=second))
    assert len(decodings) == len(set(decodings)) == PICTURES


def test_a_damaged_picture_is_decoded_again(store: Store, folder: Path, decodings: list[str]) -> None:
    dataset = prepare(store, SCENES)
    wanted = epoch(dataset, decoded=shared(dataset))
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    decodings.clear()
    assert_same(wanted, epoch(dataset, decoded=shared(dataset)))
    assert len(decodings) == 1


def test_what_is_too_large_is_not_kept(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepare(store, SCENES)
    assert dataset.decoded("train", NEEDED - 1) is None
    monkeypatch.setenv("VLDD_CACHE_GIB", "0")
    assert dataset.decoded("train", NEEDED) is None
    assert not folder.exists()


def test_a_full_disk_costs_time_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        assert DecodedPictures.open(NodeCache(tmp_path, 1), "a", 2, 4, 1000) is None
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "decoded").iterdir())


def test_files_that_nobody_uses_make_room(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 1)

    def names() -> set[str]:
        return {path.name.partition("-")[0] for path in (tmp_path / "decoded").iterdir()}

    def opened(name: str) -> DecodedPictures | None:
        return DecodedPictures.open(cache, name, 2, 4, 1000)

    used, unused = opened("used"), opened("unused")
    assert used is not None
    assert unused is not None
    used.put(1, picture := torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4))
    del unused
    opened("new")
    assert names() == {"used", "new"}
    assert _equal(used.get(1), picture)
    assert used.get(0) is None


def test_another_decoder_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = DecodedPictures.open(NodeCache(tmp_path, 1), "a", 2, 4, 1000)
    monkeypatch.setattr(decoded.PIL, "__version__", "0")
    other = DecodedPictures.open(NodeCache(tmp_path, 1), "a", 2, 4, 1000)
    assert one is not None
    assert other is not None
    one.put(0, torch.ones(3, 4, 4, dtype=torch.uint8))
    assert other.get(0) is None


def _equal(found: Tensor | None, wanted: Tensor) -> bool:
    return found is not None and torch.equal(found, wanted)
