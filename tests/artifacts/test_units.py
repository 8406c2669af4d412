"""Units: partial results are never read, damage is found and named, checkpoints, concurrent writers."""

import contextlib
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vldd_dist.artifacts.checkpoints import AlreadyCommitted
from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.manifests import UnitManifest, from_json, to_json
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory, write_snapshots
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader, is_done
from vldd_dist.errors import DataError, StoreError
from vldd_dist.sharding.checkpoints import newest_checkpoint
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.processes.forks import loaded_processes


class ThingFacts(Facts):
    number: float = 0


def writer(store: Store, unit_id: str = "u1") -> UnitWriter:
    return UnitWriter(store, "thing", unit_id, {"a": 1}, {"dataset": "dataset/d1"})


def test_round_trip(store: Store) -> None:
    unit = writer(store)
    unit.put("x.bin", b"abc")
    manifest = unit.commit(ThingFacts(number=1.5))
    reader = UnitReader(store, "thing", "u1")
    assert reader.manifest == manifest
    assert reader.read("x.bin") == b"abc"
    assert (reader.manifest.facts, reader.facts_as(ThingFacts)) == ({"number": 1.5}, ThingFacts(number=1.5))
    assert from_json(UnitManifest, to_json(manifest), "x") == manifest
    with pytest.raises(StoreError, match=r"has no object 'y\.bin'"):
        reader.read("y.bin")


def test_facts_that_were_not_set_are_not_stored(store: Store) -> None:
    """So a stage whose facts get a further field with a default still writes the manifests that it wrote before."""
    assert writer(store).commit(ThingFacts()).facts == {}
    assert UnitReader(store, "thing", "u1").facts_as(ThingFacts).number == 0


def test_a_unit_without_a_manifest_does_not_exist(store: Store) -> None:
    writer(store).put("x.bin", b"abc")
    assert not is_done(store, "thing", "u1")
    with pytest.raises(StoreError, match="no such object"):
        UnitReader(store, "thing", "u1")


def test_checkpoints_that_cannot_be_read_do_not_push_out_later_ones(store: Store) -> None:
    """The two checkpoints of the highest steps are kept; a unit that starts from scratch writes lower steps."""
    before = writer(store)
    for step in (450, 500):
        before.checkpoints.save(step, {"state": b"x"}, {})
    store.delete(store.keys(f"units/thing/u1/{before.attempt}"))
    again = writer(store)
    assert newest_checkpoint(again, SOLO) is None
    again.checkpoints.save(50, {"state": b"y"}, {})
    found = newest_checkpoint(again, SOLO)
    assert found is not None
    assert (found.step, found.read("state")) == (50, b"y")


class Died(BaseException):
    """Stands for the death of the process."""


class MortalStore(Store):
    """A store that raises `Killed` instead of its next change, after a given number of changes."""

    def __init__(self, url: str, life: int) -> None:
        super().__init__(url)
        self.life = life

    def write(self, key: str, data: bytes) -> None:
        self.spend()
        super().write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self.spend()
        return super().create(key, data)

    def delete(self, keys: list[str]) -> None:
        self.spend()
        super().delete(keys)

    def spend(self) -> None:
        if self.life == 0:
            raise Died
        self.life -= 1


def _make_unit(store: Store) -> None:
    unit = writer(store)
    checkpoint = newest_checkpoint(unit, SOLO)
    for step in range(checkpoint.step + 1 if checkpoint else 0, 4):
        unit.checkpoints.save(step, {"state": bytes([step])}, {})
    unit.put("x.bin", b"abc")
    unit.adopt("y.bin", unit.put_blob(b"def"))
    unit.commit(Facts())


def test_a_writer_that_dies_after_any_operation_leaves_nothing_or_all(tmp_path: Path) -> None:
    deaths, done_at_death = 0, []
    for life in range(100):
        store = Store(str(tmp_path / str(life)))
        try:
            _make_unit(MortalStore(store.url, life))
            break
        except Died:
            deaths += 1
        done_at_death.append(is_done(store, "thing", "u1"))
        if done_at_death[-1]:
            reader = UnitReader(store, "thing", "u1")
            assert (reader.read("x.bin"), reader.read("y.bin")) == (b"abc", b"def")
        else:
            checkpoint = newest_checkpoint(writer(store), SOLO)
            assert checkpoint is None or checkpoint.read("state") == bytes([checkpoint.step])
        with contextlib.suppress(AlreadyCommitted):
            _make_unit(store)
        reader = UnitReader(store, "thing", "u1")
        assert (reader.read("x.bin"), reader.read("y.bin")) == (b"abc", b"def")
    assert deaths > 10
    assert {True, False} == set(done_at_death)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 8 * 64 - 1), cut=st.integers(0, 63))
def test_any_flipped_bit_or_cut_is_found_and_named(tmp_path: Path, bit: int, cut: int) -> None:
    store = Store(str(tmp_path))
    if not is_done(store, "thing", "u1"):
        unit = writer(store)
        unit.put("x.bin", bytes(range(64)))
        unit.commit(Facts())
    reader = UnitReader(store, "thing", "u1")
    key = reader.info("x.bin").key
    flipped = bytearray(range(64))
    flipped[bit // 8] ^= 1 << bit % 8
    for damaged in (bytes(flipped), bytes(range(64))[:cut]):
        store.write(key, damaged)
        with pytest.raises(StoreError, match=r"x\.bin.*damaged.*remove units/thing/u1/manifest\.json"):
            reader.read("x.bin")


def test_making_the_unit_again_repairs_a_damaged_blob(store: Store) -> None:
    for _ in range(2):
        unit = writer(store)
        info = unit.adopt("x.bin", unit.put_blob(b"content"))
        unit.commit(Facts())
        assert UnitReader(store, "thing", "u1").read("x.bin") == b"content"
        store.write(info.key, b"cOntent")
        with pytest.raises(StoreError, match=r"damaged; remove units/thing/u1/manifest\.json"):
            UnitReader(store, "thing", "u1").read("x.bin")
        store.delete(["units/thing/u1/manifest.json"])


def test_a_store_that_cannot_be_read_is_not_a_damaged_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = writer(store)
    unit.put("x.bin", b"abc")
    unit.checkpoints.save(1, {"state": b"1"}, {})

    def unreachable(key: str, at_most: int | None = None) -> bytes:
        raise StoreError("permission denied")

    monkeypatch.setattr(store, "read", unreachable)
    with pytest.raises(StoreError, match="permission denied"):
        newest_checkpoint(writer(store), SOLO)
    monkeypatch.undo()
    unit.commit(Facts())
    reader = UnitReader(store, "thing", "u1")
    monkeypatch.setattr(store, "read", unreachable)
    with pytest.raises(StoreError, match=r"^permission denied$"):
        reader.read("x.bin")


def _commit_in_process(url: str, number: int, barrier: object) -> None:
    unit = writer(Store(url))
    unit.put("x.bin", bytes([number]) * 1000)
    barrier.wait()  # type: ignore[attr-defined]
    unit.commit(ThingFacts(number=number))


def test_two_processes_that_commit_leave_one_whole_result(store: Store) -> None:
    context = loaded_processes()
    barrier = context.Barrier(3)
    processes = [context.Process(target=_commit_in_process, args=(store.url, n, barrier)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANG_SECONDS)
        assert process.exitcode == 0
    reader = UnitReader(store, "thing", "u1")
    assert reader.read("x.bin") == bytes([int(reader.facts_as(ThingFacts).number)]) * 1000


def test_the_second_to_commit_gets_the_manifest_of_the_first(store: Store) -> None:
    first, second = writer(store), writer(store)
    for unit, data in ((first, b"first"), (second, b"second")):
        unit.put("x", data)
    committed = first.commit(ThingFacts(number=1))
    assert second.commit(ThingFacts(number=2)) == committed
    reader = UnitReader(store, "thing", "u1")
    assert (reader.manifest, reader.read("x")) == (committed, b"first")


def test_checkpoints_newest_whole_one_wins_and_commit_clears_them(store: Store) -> None:
    unit = writer(store)
    assert newest_checkpoint(unit, SOLO) is None
    for step in range(1, 5):
        unit.checkpoints.save(step, {"state": bytes([step]) * 10}, {"loss": step})
    later = writer(store)
    checkpoint = newest_checkpoint(later, SOLO)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.read("state"), checkpoint.facts) == (4, bytes([4]) * 10, {"loss": 4})
    objects = [key for key in store.keys("units") if key.endswith("/state")]
    assert len(objects) == 2, "only the last two are kept"
    store.write(objects[-1], b"damaged")
    survivor = newest_checkpoint(later, SOLO)
    assert survivor is not None
    assert survivor.step == 3
    later.commit(Facts())
    assert store.keys("units") == ["units/thing/u1/manifest.json"]


def test_a_checkpoint_without_its_record_is_ignored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = writer(store)
    unit.checkpoints.save(1, {"state": b"1"}, {})
    original = store.write

    def die_at_the_mark(key: str, data: bytes) -> None:
        if "/checkpoints/" in key:
            raise KeyboardInterrupt
        original(key, data)

    monkeypatch.setattr(store, "write", die_at_the_mark)
    with pytest.raises(KeyboardInterrupt):
        unit.checkpoints.save(2, {"state": b"2"}, {})
    checkpoint = newest_checkpoint(writer(store), SOLO)
    assert checkpoint is not None
    assert checkpoint.step == 1


@pytest.mark.parametrize("key", ["../x", "units/thing/other/a/x", "units/thing/u1/../other/x", "blobs/../x", "/etc/passwd"])
def test_a_manifest_that_points_elsewhere_is_refused(store: Store, key: str) -> None:
    manifest = UnitManifest(kind="thing", unit="u1", spec={}, inputs={}, objects={"x": ObjectInfo.of(key, b"")}, facts={})
    store.write("units/thing/u1/manifest.json", to_json(manifest))
    with pytest.raises(StoreError, match="lies outside its unit"):
        UnitReader(store, "thing", "u1")


def test_equal_snapshots_are_stored_once_and_trajectories_read_back(store: Store) -> None:
    for expert in ("a", "b"):
        unit = writer(store, expert)
        for epoch in (0, 1, 3):
            image = {"w": torch.full((4,), 0.0 if epoch == 0 else float(epoch) + len(expert))}
            ((name, info),) = write_snapshots(unit, epoch, {"image": tensors.encode(image)}).items()
            unit.adopt(name, info)
        unit.commit(Facts())
    assert len(store.keys("blobs")) == 3
    trajectory = Trajectory(UnitReader(store, "thing", "a"), TensorCache(limit_bytes=16))
    assert trajectory.epochs == [0, 1, 3]
    assert trajectory.snapshot(3, "image")["w"].tolist() == [4.0] * 4
    assert trajectory.snapshot(0, "image")["w"].tolist() == [0.0] * 4
    assert len(trajectory.cache) == 1


def test_tensors_round_trip_with_equal_bytes() -> None:
    named = {"b": torch.arange(6).reshape(2, 3).T, "a": torch.rand(3, dtype=torch.float64)}
    data = tensors.encode(named)
    assert data == tensors.encode(dict(reversed(named.items())))
    back = tensors.decode(data, "x")
    assert all(torch.equal(back[name], named[name]) for name in named)


def test_tensors_are_read_in_the_order_of_their_names() -> None:
    """Also on a second reading: a published card names the tensors."""
    data = tensors.encode({f"{number:02d}": torch.zeros(1) for number in range(30)})
    assert list(tensors.decode(data, "x")) == [f"{number:02d}" for number in range(30)]


@pytest.mark.parametrize(("count", "width"), [(10, 10), (13, 15), (17, 14), (21, 13), (296, 9)])
def test_a_header_length_that_reads_like_a_pickle_is_no_pickle(count: int, width: int) -> None:
    named = {f"{index:0{width}d}": torch.zeros(1) for index in range(count)}
    data = tensors.encode(named)
    assert data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    assert set(tensors.decode(data, "x")) == set(named)


def test_a_users_weights_file_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(tensors.encode({"w": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}))
    digest = sha256(path.read_bytes()).hexdigest()
    weights = tensors.read_file(str(path), digest)
    assert (weights["w"].dtype, weights["n"].dtype) == (torch.float32, torch.int64)
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt")
    for url, sentence in (
        # Another file than the planned one is that of another machine, whatever it is.
        (str(tmp_path / "weights.pt"), "has changed since the run was planned"),
        (str(tmp_path / "none"), "no such file"),
        (str(tmp_path), "cannot be read"),
        ("gopher://x", "cannot be read"),
    ):
        with pytest.raises(DataError, match=sentence):
            tensors.read_file(url, digest)
    with pytest.raises(DataError, match="a pickle"):
        tensors.read_file(str(tmp_path / "weights.pt"), sha256((tmp_path / "weights.pt").read_bytes()).hexdigest())
    path.write_bytes(tensors.encode({"w": torch.zeros(2)}))
    with pytest.raises(DataError, match=r"weights\.safetensors: has changed since the run was planned"):
        tensors.read_file(str(path), digest)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"PK\x03\x04 a zip", "a pickle"),
        (b"\x80\x04\x95 a pickle", "a pickle"),
        (b"", "not a complete safetensors file"),
        (tensors.encode({"a": torch.rand(100)})[:200], "not a valid safetensors file"),
        ((2**60).to_bytes(8, "little") + b"{}", "not a complete safetensors file"),
        ((2).to_bytes(8, "little") + b"{]", "not a valid safetensors file"),
    ],
)
def test_files_other_than_safetensors_are_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(StoreError, match=f"^here: .*{sentence}"):
        tensors.decode(data, "here")
