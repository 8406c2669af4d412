"""Objects read in blocks, the node's cache, slices of trajectories, and uploads in the background."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory, write_snapshots
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.errors import ConfigError, Outage, StoreError
from vldd_dist.store import async_writer, objects
from vldd_dist.store.async_writer import AsyncWriter
from vldd_dist.store.cache.node_cache import NodeCache, node_cache
from vldd_dist.store.objects import ObjectInfo, read_object, read_ranges, sha256_hex
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.processes.forks import loaded_processes
from vldd_dist.testing.servers.s3_server import S3Server


@pytest.fixture
def remote(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on S3, and blocks small enough for small tests."""
    monkeypatch.setattr(objects, "BLOCK_BYTES", 1000)
    store = Store(f"s3://objects-{abs(hash(str(tmp_path))) % 10**9}/x")
    store.fs.mkdir(store.root.partition("/")[0])
    return store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The requests to stores: (key, start, length), with -1 for a whole object."""
    seen: list[tuple[str, int, int]] = []
    read, read_range = Store.read, Store.read_range
    monkeypatch.setattr(Store, "read", lambda self, key, at_most=None: seen.append((key, 0, -1)) or read(self, key))
    monkeypatch.setattr(
        Store,
        "read_range",
        lambda self, key, start, length: seen.append((key, start, length)) or read_range(self, key, start, length),
    )
    return seen


def test_a_large_object_is_read_in_blocks_once_a_node(remote: Store, asked: list[tuple[str, int, int]]) -> None:
    data = np.random.default_rng(0).bytes(2500)
    remote.write("x", data)
    info = ObjectInfo.of("x", data)
    assert info.blocks is not None
    assert [(block.start, block.length) for block in info.block_list()] == [(0, 1000), (1000, 1000), (2000, 500)]
    assert read_ranges(remote, info, [(990, 1010), (1500, 1500), (0, 10)]) == [data[990:1010], b"", data[:10]]
    assert sorted(asked) == [("x", 0, 1000), ("x", 1000, 1000)]
    assert read_object(remote, info) == data
    assert sorted(asked)[2:] == [("x", 2000, 500)], "blocks in the node's cache are not requested again"
    assert read_object(remote, info) == data
    assert len(asked) == 3


def test_a_flipped_bit_in_a_block_is_named_with_its_place(remote: Store) -> None:
    data = np.random.default_rng(0).bytes(2500)
    info = ObjectInfo.of("x", data)
    remote.write("x", data[:1700] + bytes([data[1700] ^ 1]) + data[1701:])
    with pytest.raises(StoreError, match=r"x: its sha256 differs .*\(bytes 1000 to 2000\): the object is damaged"):
        read_object(remote, info)
    assert read_ranges(remote, info, [(0, 900)]) == [data[:900]], "the other blocks are undamaged"
    remote.write("x", data[:1700])
    with pytest.raises(StoreError, match=r"x: .*damaged"):
        read_ranges(remote, info, [(1500, 1600)])
    with pytest.raises(StoreError, match="2 blocks of 1000 bytes do not make 2500"):
        ObjectInfo(**info.model_dump() | {"blocks": {"size": 1000, "sha256": [info.sha256] * 2}}).block_list()


def test_a_damaged_block_of_the_cache_is_fetched_again(remote: Store, asked: list[object], tmp_path: Path) -> None:
    data = bytes(range(256)) * 10
    remote.write("x", data)
    info = ObjectInfo.of("x", data)
    read_object(remote, info)
    (first, *_) = sorted((tmp_path / "cache").glob("??/*"))
    first.write_bytes(b"\xff" + first.read_bytes()[1:])
    before = len(asked)
    assert read_object(remote, info) == data
    assert len(asked) == before + 1


def test_the_least_recently_used_block_goes_first(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", limit_bytes=250)
    blocks = [bytes([number]) * 100 for number in range(3)]
    loads: list[int] = []

    def get(number: int) -> bytes:
        block = blocks[number]
        return cache.get(sha256_hex(block), 100, lambda: loads.append(number) or block)  # type: ignore[func-returns-value]

    for number in (0, 1, 0, 2, 0, 1):
        assert get(number) == blocks[number]
        time.sleep(0.01)
    assert loads == [0, 1, 2, 1], "0 was used after 1, so 1 made room for 2"
    large = bytes(300)
    assert cache.get(sha256_hex(large), 300, lambda: large) == large
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("??/*")) <= 250


def test_a_cache_that_cannot_be_used_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert NodeCache(tmp_path / "file", 1000).get(sha256_hex(b"x"), 1, lambda: b"x") == b"x"
    assert "cannot be used" in caplog.text


def test_the_cache_is_described_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLDD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("VLDD_CACHE_GIB", "0.5")
    cache = node_cache()
    assert (cache.folder, cache.limit_bytes) == (tmp_path, 2**29)
    for wrong in ("-1", "nan", "inf", "much"):
        monkeypatch.setenv("VLDD_CACHE_GIB", wrong)
        with pytest.raises(ConfigError, match=f"VLDD_CACHE_GIB={wrong}"):
            node_cache()


def _fill(folder: str, count: str, barrier: object) -> None:
    block = b"x" * 100_000

    def load() -> bytes:
        Path(count, str(os.getpid())).write_bytes(b"")
        time.sleep(0.3)
        return block

    barrier.wait()  # type: ignore[attr-defined]
    assert NodeCache(Path(folder), 10**6).get(sha256_hex(block), len(block), load) == block


def test_one_process_fills_while_the_others_wait(tmp_path: Path) -> None:
    context = loaded_processes()
    barrier = context.Barrier(3)
    (tmp_path / "count").mkdir()
    arguments = (str(tmp_path / "cache"), str(tmp_path / "count"), barrier)
    processes = [context.Process(target=_fill, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANG_SECONDS)
        assert process.exitcode == 0
    assert len(list((tmp_path / "count").iterdir())) == 1


def trajectory(store: Store, snapshots: dict[int, dict[str, torch.Tensor]]) -> Trajectory:
    writer = UnitWriter(store, "thing", "u", {}, {})
    for epoch, named in snapshots.items():
        encoded = {"image": tensors.encode(named), "text": tensors.encode({"head": torch.full((3,), float(epoch))})}
        writer.objects |= write_snapshots(writer, epoch, encoded)
    writer.commit(Facts())
    return Trajectory(UnitReader(store, "thing", "u"), TensorCache())


def test_a_rank_reads_its_slices_and_no_more_blocks_than_hold_them(remote: Store, asked: list[tuple[str, int, int]]) -> None:
    named = {
        "a": torch.randn(40, 50),
        "b": torch.randn(7, dtype=torch.float64),
        "c": torch.randn(300).to(torch.bfloat16),
        "n": torch.tensor(5),
    }
    read = trajectory(remote, {0: named})
    asked.clear()
    wanted = {"a": (100, 150), "b": (3, 7), "c": (0, 0), "n": (0, 1)}
    slices = read.slices(0, "image", wanted)
    for name, (start, stop) in wanted.items():
        assert slices[name].dtype == named[name].dtype or start == stop
        assert torch.equal(slices[name].double(), named[name].flatten()[start:stop].double())
    assert all(length <= 1000 for _, _, length in asked)
    assert sum(length for _, _, length in asked) <= 4000 < read.reader.info("epoch-0000/image.safetensors").size
    for wrong in ({"d": (0, 1)}, {"a": (0, 2001)}, {"a": (-1, 5)}, {"a": (9, 3)}):
        with pytest.raises(StoreError, match="has no elements"):
            read.slices(0, "image", wrong)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
        b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":[]}',
        b"[]",
        b"{",
    ],
)
def test_a_wrong_header_is_refused(header: bytes) -> None:
    with pytest.raises(StoreError, match="here: not a valid safetensors file"):
        tensors.parse_header(header, 100, "here")
    with pytest.raises(StoreError, match="here: no"):
        tensors.decode(len(header).to_bytes(8, "little") + header + bytes(100), "here")
    with pytest.raises(StoreError, match="here: not a complete"):
        tensors.header_end((2**62).to_bytes(8, "little"), 100, "here")


def test_snapshots_are_prefetched_once_and_a_failed_load_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = trajectory(store, {0: {"w": torch.zeros(2)}, 1: {"w": torch.ones(2)}})
    loads: list[str] = []
    original = UnitReader.read

    def counting(self: UnitReader, name: str) -> bytes:
        loads.append(name)
        if len(loads) == 1:
            raise StoreError("for a moment")
        return original(self, name)

    monkeypatch.setattr(UnitReader, "read", counting)
    with pytest.raises(StoreError, match="for a moment"):
        read.snapshot(1, "image")
    read.prefetch(1, ("image", "text"))
    read.prefetch(1, ("image", "text"))
    assert read.snapshot(1, "image")["w"].tolist() == [1, 1]
    assert read.snapshot(1, "text")["head"].tolist() == [1, 1, 1]
    assert sorted(loads) == ["epoch-0001/image.safetensors"] * 2 + ["epoch-0001/text.safetensors"]


def waiting(events: list[str], name: str, gate: threading.Event) -> Callable[[], None]:
    def work() -> None:
        gate.wait(10)
        events.append(name)

    return work


def test_work_in_the_background_keeps_its_order_and_raises_at_the_next(store: Store) -> None:
    events: list[str] = []
    gate = threading.Event()
    with AsyncWriter() as background:
        background.submit(waiting(events, "first", gate))
        events.append("beside")
        gate.set()
        background.submit(waiting(events, "second", gate))
    assert events == ["beside", "first", "second"]

    def fail() -> None:
        raise StoreError("the disk is full")

    with AsyncWriter() as background:
        background.submit(fail)
        with pytest.raises(StoreError, match="the disk is full"):
            background.submit(lambda: events.append("never"))
    with pytest.raises(StoreError, match="the disk is full"), AsyncWriter(3) as background:
        background.submit(fail)
    assert "never" not in events


def test_work_in_the_background_that_meets_an_outage_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_writer, "PAUSE_SECONDS", 0.01)
    outages, written = [1, 2], list[str]()

    def write() -> None:
        if outages:
            raise Outage(f"no answer {outages.pop()}")
        written.append("checkpoint")

    with AsyncWriter() as background:
        background.submit(write)
    assert written == ["checkpoint"]


def test_an_outage_that_lasts_is_raised_while_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_writer, "OUTAGE_SECONDS", 0.05)
    monkeypatch.setattr(async_writer, "PAUSE_SECONDS", 0.01)

    def write() -> None:
        raise Outage("no answer")

    def train() -> None:
        with AsyncWriter() as background:
            background.submit(write)
            while True:
                time.sleep(0.01)
                background.check()

    with pytest.raises(Outage, match="no answer"):
        train()


def test_an_error_of_the_training_does_not_wait_for_the_end_of_an_outage() -> None:
    def write() -> None:
        raise Outage("no answer")

    def train() -> None:
        with AsyncWriter() as background:
            background.submit(write)
            raise ZeroDivisionError

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        train()
    assert time.monotonic() - began < async_writer.PAUSE_SECONDS / 2
