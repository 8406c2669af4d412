"""The cache of decoded images that processes share: the same batches, each image decoded once, whatever happens to the file."""

import logging
import os
import stat
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.data.prepared.epochs import assert_same, epoch
from tests.data.prepared.prepared_sets import SCENES
from tests.data.sample_files import jpeg
from tests.data.small_sources import karpathy
from vldd_dist.data.images import decode
from vldd_dist.data.prepared.batches import image_cache as decoded
from vldd_dist.data.prepared.batches.image_cache import DecodedImages
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.store.cache.node_cache import NodeCache
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import prepare

IMAGES, SIZE = 23, 16
NEEDED = IMAGES * (3 * SIZE**2 + 32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLDD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the images that were decoded."""
    keys: list[str] = []

    def counting(data: bytes, source: str) -> Any:
        keys.append(source)
        return decode(data, source)

    monkeypatch.setattr("vldd_dist.data.prepared.dataset.decode", counting)
    return keys


def shared(dataset: Dataset) -> DecodedImages:
    found = DecodedImages.of(dataset, "train", NEEDED)
    assert found is not None
    return found


def test_two_experts_and_all_epochs_decode_an_image_once(store: Store, folder: Path, decodings: list[str]) -> None:
    dataset = prepare(store, SCENES)
    first, second = shared(dataset), shared(Dataset(dataset.reader))
    plain = [epoch(dataset, epoch=number) for number in (2, 3)]
    decodings.clear()
    for number, wanted in zip((2, 3), plain, strict=True):
        assert_same(wanted, epoch(dataset, epoch=number, decoded=first))
        assert_same(wanted, epoch(dataset, epoch=number, decoded=second))
    assert len(decodings) == len(set(decodings)) == IMAGES


def test_a_damaged_image_is_decoded_again(store: Store, folder: Path, decodings: list[str]) -> None:
    dataset = prepare(store, SCENES)
    wanted = epoch(dataset, decoded=shared(dataset))
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    decodings.clear()
    assert_same(wanted, epoch(dataset, decoded=shared(dataset)))
    assert len(decodings) == 1


def test_damage_that_a_crc_cannot_see_is_decoded_again(tmp_path: Path) -> None:
    images = DecodedImages.open(NodeCache(tmp_path, 1), "a", 2, 4, 1000)
    assert images is not None
    image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    images.put(1, image)
    (path,) = (tmp_path / "decoded").iterdir()
    whole = path.read_bytes()
    # Adding the bit-reversed polynomial of CRC-32 to the data does not change its CRC.
    polynomial = int(f"{0x104C11DB7:033b}"[::-1], 2)
    damaged = (int.from_bytes(whole[-48:], "little") ^ polynomial << 80).to_bytes(48, "little")
    assert zlib.crc32(damaged) == zlib.crc32(image.numpy().tobytes())
    for data in (whole[:-48] + damaged, whole[:-1]):
        path.write_bytes(data)
        assert images.get(1) is None
    path.write_bytes(whole)
    assert _equal(images.get(1), image)


def test_the_cache_distinguishes_equal_units_of_two_stores(tmp_path: Path, folder: Path) -> None:
    """Two stores may hold different shards under the same unit id; the cache is named by the shards' content."""
    stores = [Store(str(tmp_path / name)) for name in ("one", "other")]
    (tmp_path / "source").mkdir()
    settings = karpathy(tmp_path / "source")
    datasets = [prepare(stores[0], settings)]
    for path in (tmp_path / "source" / "images").iterdir():
        path.write_bytes(jpeg((30, 200, 30)))
    datasets.append(prepare(stores[1], settings))
    assert datasets[0].reader.prefix == datasets[1].reader.prefix
    arguments: dict[str, Any] = {"augment": None}
    for dataset in datasets * 2:
        shared_images = DecodedImages.of(dataset, "train", 1 << 20)
        assert shared_images is not None
        assert_same(epoch(dataset, **arguments), epoch(dataset, decoded=shared_images, **arguments))
    assert len(list(folder.iterdir())) == 2


def test_a_limit_that_is_too_small_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = NodeCache(tmp_path / "cache", 1 << 30)
    for limit in (0, 500 << 20):
        assert DecodedImages.open(cache, "x", 5_000, 224, limit) is None
    assert [record.getMessage() for record in caplog.records] == [
        "experts.cache_mib (500) is less than the 718 MiB of the split: not used"
    ]


def test_what_is_too_large_is_not_kept(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepare(store, SCENES)
    assert DecodedImages.of(dataset, "train", NEEDED - 1) is None
    monkeypatch.setenv("VLDD_CACHE_GIB", "0")
    assert DecodedImages.of(dataset, "train", NEEDED) is None
    assert not folder.exists()


def test_a_full_disk_costs_time_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        assert DecodedImages.open(NodeCache(tmp_path, 1), "a", 2, 4, 1000) is None
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "decoded").iterdir())


def test_a_disk_that_fails_later_costs_decoding_again(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = prepare(store, SCENES)
    wanted, images = epoch(dataset), shared(dataset)

    def broken(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pwritev", broken)
    assert_same(wanted, epoch(dataset, decoded=images))
    monkeypatch.undo()
    assert_same(wanted, epoch(dataset, decoded=images))
    monkeypatch.setattr(os, "preadv", broken)
    assert_same(wanted, epoch(dataset, decoded=images))
    assert "cannot be written to the node's cache" in caplog.text
    assert "cannot be read" in caplog.text


def test_links_in_the_folder_are_neither_followed_nor_emptied(store: Store, folder: Path, tmp_path: Path) -> None:
    dataset = prepare(store, SCENES)
    wanted = epoch(dataset, decoded=shared(dataset))
    (path,) = folder.iterdir()
    precious = tmp_path / "precious"
    precious.write_bytes(content := bytes(NEEDED))
    path.unlink()
    path.symlink_to(precious)
    (folder / "other").symlink_to(precious)
    assert_same(wanted, epoch(dataset, decoded=shared(dataset)))
    assert precious.read_bytes() == content
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_files_that_nobody_uses_make_room(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 1)

    def names() -> set[str]:
        return {path.name.partition("-")[0] for path in (tmp_path / "decoded").iterdir()}

    def opened(name: str) -> DecodedImages | None:
        return DecodedImages.open(cache, name, 2, 4, 1000)

    used, unused = opened("used"), opened("unused")
    assert used is not None
    assert unused is not None
    used.put(1, image := torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4))
    del unused
    opened("new")
    assert names() == {"used", "new"}
    assert _equal(used.get(1), image)
    assert used.get(0) is None


def test_another_decoder_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = DecodedImages.open(NodeCache(tmp_path, 1), "a", 2, 4, 1000)
    monkeypatch.setattr(decoded.PIL, "__version__", "0")
    other = DecodedImages.open(NodeCache(tmp_path, 1), "a", 2, 4, 1000)
    assert one is not None
    assert other is not None
    one.put(0, torch.ones(3, 4, 4, dtype=torch.uint8))
    assert other.get(0) is None


def _equal(found: Tensor | None, wanted: Tensor) -> bool:
    return found is not None and torch.equal(found, wanted)
