"""Garbage collection: it removes objects that no manifest lists and that are old by the store's clock, and only in stores of
this package."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distilled_sets import distilled_set
from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.garbage import Garbage, Keep, find_garbage, remove_garbage
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.trajectories import write_snapshots
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader, is_store
from vldd_dist.cli.main import main
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import verify
from vldd_dist.errors import StoreError
from vldd_dist.sharding.checkpoints import newest_checkpoint
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import MissingObject, Store

DAY = timedelta(hours=24)
PUBLISHED = "distilled/scenes-20pairs-seed0-0123abcd"


def make_older(store: Store, age: timedelta, *keys: str) -> None:
    """Make objects look old; all objects if none are named."""
    moment = (datetime.now(UTC) - age).timestamp()
    for key in keys or [*store.listing("units", temporary=True), *store.keys("blobs"), *store.keys("distilled")]:
        os.utime(Path(store.root, key), (moment, moment))


def gc(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """The output of `vldd gc`."""
    with pytest.raises(SystemExit) as ended:
        main(["gc", *arguments])
    printed = capsys.readouterr()
    assert ended.value.code == code, printed
    return printed.err if code else printed.out


def test_old_objects_that_nothing_references_are_garbage(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    writer = UnitWriter(store, "thing", "u", {}, {})
    ((name, info),) = write_snapshots(writer, 0, {"image": tensors.encode({"w": torch.zeros(2)})}).items()
    writer.adopt(name, info)
    writer.put("x.bin", b"kept")
    writer.commit(Facts())
    running = UnitWriter(store, "thing", "v", {}, {})
    (snapshot,) = write_snapshots(running, 0, {"image": tensors.encode({"w": torch.ones(2)})}).values()
    running.checkpoints.save(1, {"state": b"kept"}, {"snapshots": {"s": snapshot.model_dump()}})
    dead = UnitWriter(store, "thing", "u", {}, {})
    dead.put("y.bin", b"garbage")
    orphan = dead.put_blob(b"an orphan blob")
    killed = f"units/thing/u/{dead.attempt}/.tmp-{'0' * 32}"
    store.write(killed, b"half a file")
    store.write(f"{PUBLISHED}/pairs/000000.tar", b"of a publication that died")
    of_negative_seed = f"{PUBLISHED.replace('seed0', 'seed-1')}/pairs/000000.tar"
    store.write(of_negative_seed, b"of another one")
    whole = PUBLISHED.replace("seed0", "seed1")
    save(distilled_set(), store.url_of(whole))
    in_folders = [f"units/thing/u/{dead.attempt}/y.bin", f"{PUBLISHED}/pairs/000000.tar", of_negative_seed]
    expected = sorted([orphan.key, killed, *in_folders])
    assert find_garbage(store, timedelta(hours=1)).keys == []
    make_older(store, timedelta(hours=2))
    assert sorted(find_garbage(store, timedelta(hours=1)).keys) == expected
    for arguments in ([store.url, "--min-age-hours", "0"], [store.url, "--delete", "--min-age-hours", "0"]):
        printed = gc(capsys, *arguments)
        assert printed.startswith(f"store: {store.url}\n"), "before any other operation in the store"
        assert "5 objects" in printed
    assert find_garbage(store, timedelta(0)).keys == []
    verify(store.url_of(whole))
    assert UnitReader(store, "thing", "u").read("x.bin") == b"kept"
    checkpoint = newest_checkpoint(running, SOLO)
    assert checkpoint is not None
    assert checkpoint.read("state") == b"kept"


def test_the_age_of_an_attempt_is_that_of_its_latest_object(store: Store) -> None:
    """A dataset whose preparation takes days has no manifest or checkpoint before its end."""
    slow = UnitWriter(store, "dataset", "d", {}, {})
    slow.put("train-000000.tar", b"first")
    slow.put("train-000001.tar", b"last")
    for name, age in (("train-000000.tar", 48), ("train-000001.tar", 1)):
        make_older(store, timedelta(hours=age), slow.objects[name].key)
    assert find_garbage(store, timedelta(hours=24)).keys == []
    garbage = find_garbage(store, timedelta(minutes=30))
    assert len(garbage.keys) == 2
    slow.put("train-000000.tar", b"again")
    remove_garbage(store, garbage, timedelta(minutes=30))
    assert len(store.keys("units")) == 2, "the attempt is recent, so that all its objects are kept"
    make_older(store, timedelta(hours=1))
    remove_garbage(store, garbage, timedelta(minutes=30))
    assert store.keys("units") == []


def test_the_search_is_repeated_if_a_mark_disappears_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = UnitWriter(store, "thing", "u", {}, {})
    (snapshot,) = write_snapshots(writer, 0, {"image": tensors.encode({"w": torch.ones(2)})}).values()
    writer.checkpoints.save(1, {"state": b"1"}, {"snapshots": {"s": snapshot.model_dump()}})
    original = Store.read

    def commit_first(self: Store, key: str, at_most: int | None = None) -> bytes:
        if "/checkpoints/" in key:
            monkeypatch.setattr(Store, "read", original)
            writer.adopt("s", snapshot)
            writer.commit(Facts())
        return original(self, key)

    monkeypatch.setattr(Store, "read", commit_first)
    assert find_garbage(store, timedelta(0)).keys == []

    def gone(self: Store, key: str, at_most: int | None = None) -> bytes:
        if key.startswith("units/"):
            raise MissingObject(key)
        return original(self, key)

    monkeypatch.setattr(Store, "read", gone)
    with pytest.raises(StoreError, match="try again later"):
        find_garbage(store, timedelta(0))


@pytest.mark.parametrize("name", ["", ".", "file://", " "])
def test_nothing_is_deleted_in_a_folder_that_is_not_a_store(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vldd gc "$STORE" --delete` with an undefined variable is one of these cases."""
    theirs = Store(str(tmp_path / "theirs"))
    blob = f"blobs/ab/ab{'0' * 62}"
    for key in ("units/squad/7/0123abcd/soldiers.txt", "units/marines.txt", blob, "distilled/gin", f"{PUBLISHED}/gin"):
        theirs.write(key, b"not ours")
    make_older(theirs, 100 * DAY)
    monkeypatch.chdir(theirs.root)
    before = sorted(Path(theirs.root).rglob("*"))
    said = gc(capsys, name, "--delete", "--min-age-hours", "0", code=4)
    assert ("names no location" if name != "." else f"{theirs.url}: no unit of work was ever written here") in said
    assert sorted(Path(theirs.root).rglob("*")) == before


def test_foreign_files_in_a_store_are_not_deleted(store: Store) -> None:
    UnitWriter(store, "thing", "u", {}, {}).commit(Facts())
    theirs = ["units/notes.txt", "units/thing/u/notes.txt", "blobs/notes", "blobs/ab/cd", "distilled/my own/x", "distilled/x"]
    theirs += ["units/thing/u/checkpoints/notes.json", "units/.tmp-notes", f"blobs/ab/cd{'0' * 62}"]
    for key in theirs:
        store.write(key, b"not ours")
    make_older(store, 100 * DAY)
    assert find_garbage(store, timedelta(0)).keys == []


def test_ages_are_measured_by_the_clock_of_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose clock is two days ahead of the store's, new objects seem two days old."""
    running = UnitWriter(store, "thing", "u", {}, {})
    running.put("x.bin", b"of a living attempt")
    listing, modified = Store.listing, Store.modified
    behind = 2 * DAY
    monkeypatch.setattr(
        Store,
        "listing",
        lambda *arguments, **options: {
            key: listed._replace(modified=listed.modified - behind) for key, listed in listing(*arguments, **options).items()
        },
    )
    monkeypatch.setattr(Store, "modified", lambda *arguments: modified(*arguments) - behind)
    garbage = find_garbage(store, DAY)
    assert garbage.keys == []
    assert len(find_garbage(store, timedelta(0)).keys) == 1


def test_checkpoints_of_an_attempt_after_the_commit_of_another_are_garbage(store: Store) -> None:
    winner, loser = (UnitWriter(store, "thing", "u", {}, {}) for _ in range(2))
    infos = loser.checkpoints.write_objects(1, {"state": b"1"})
    (snapshot,) = write_snapshots(loser, 0, {"image": tensors.encode({"w": torch.ones(2)})}).values()
    winner.put("x.bin", b"kept")
    winner.commit(Facts())
    loser.checkpoints.write_record(1, infos, {"snapshots": {"s": snapshot.model_dump()}})
    make_older(store, 2 * DAY)
    mark = f"units/thing/u/checkpoints/00000001-{loser.attempt}.json"
    garbage = find_garbage(store, DAY)
    assert sorted(garbage.keys) == sorted([mark, infos["state"].key, snapshot.key])
    make_older(store, timedelta(0), mark)
    assert find_garbage(store, DAY).keys == [snapshot.key], "an attempt is as young as its mark"
    remove_garbage(store, garbage, timedelta(0))
    assert len(store.keys("units")) == 2
    assert UnitReader(store, "thing", "u").read("x.bin") == b"kept"


def test_an_object_that_is_referenced_after_the_search_is_kept(store: Store) -> None:
    writer = UnitWriter(store, "thing", "u", {}, {})
    infos = writer.checkpoints.write_objects(1, {"state": b"1"})
    make_older(store, 2 * DAY)
    garbage = find_garbage(store, DAY)
    assert garbage.keys == [infos["state"].key]
    writer.checkpoints.write_record(1, infos, {})
    make_older(store, 2 * DAY)
    remove_garbage(store, garbage, DAY)
    checkpoint = newest_checkpoint(writer, SOLO)
    assert checkpoint is not None
    assert checkpoint.read("state") == b"1"


def test_a_blob_that_is_rewritten_after_the_last_check_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    UnitWriter(store, "thing", "another", {}, {}).commit(Facts())
    blob = UnitWriter(store, "thing", "u", {}, {}).put_blob(b"content")
    make_older(store, 2 * DAY)
    found = find_garbage(store, DAY)
    assert found.keys == [blob.key]

    def find_before_it_is_written(*arguments: Any) -> Garbage:
        last_look = find_garbage(*arguments)
        UnitWriter(store, "thing", "v", {}, {}).put_blob(b"content")
        return last_look

    monkeypatch.setattr("vldd_dist.artifacts.garbage.find_garbage", find_before_it_is_written)
    remove_garbage(store, found, DAY)
    assert store.exists(blob.key)


def test_manifests_are_removed_before_the_objects_that_they_list(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a collection that is killed would leave a manifest or a record whose objects are deleted."""
    for unit_id in ("done", "begun"):
        writer = UnitWriter(store, "thing", unit_id, {}, {})
        writer.adopt("blob", writer.put_blob(unit_id.encode()))
        writer.put("x", b"x")
        writer.checkpoints.save(1, {"state": b"1"}, {})
        if unit_id == "done":
            writer.commit(Facts())
    make_older(store, 2 * DAY)
    keep = Keep(frozenset())
    found, deleted = find_garbage(store, DAY, keep), []
    delete = Store.delete
    monkeypatch.setattr(Store, "delete", lambda self, keys: deleted.extend(keys) or delete(self, keys))
    remove_garbage(store, found, DAY, keep)
    assert [key.endswith(".json") for key in deleted if key in found.keys] == [True] * 2 + [False] * 5


def test_nothing_is_garbage_while_a_folder_cannot_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifests in that folder may list objects in other folders."""
    writer = UnitWriter(store, "thing", "u", {}, {})
    writer.adopt("x", writer.put_blob(b"named by the manifest"))
    writer.commit(Facts())
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("thing/u"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(StoreError, match="permission denied at units"):
        find_garbage(store, timedelta(0))


@pytest.mark.parametrize("moved", ["units", "units/thing", "units/thing/u/manifest.json"])
@pytest.mark.parametrize("mounted", [True, False])
def test_nothing_is_garbage_while_units_lie_on_another_disk(store: Store, tmp_path: Path, moved: str, mounted: bool) -> None:
    """Reading follows a symbolic link, so that a listing without what is behind it is incomplete."""
    writer = UnitWriter(store, "thing", "u", {}, {})
    blob = writer.adopt("x", writer.put_blob(b"days of work"))
    writer.commit(Facts())
    make_older(store, 2 * DAY)
    elsewhere = tmp_path / "another disk"
    shutil.move(Path(store.root, moved), elsewhere)
    Path(store.root, moved).symlink_to(elsewhere)
    if not mounted:
        elsewhere.rename(tmp_path / "not mounted")
    if mounted and moved != "units/thing":
        assert find_garbage(store, DAY).keys == []
        assert f"units/{moved[6:]}".rstrip("/") in {"units", *store.keys("units")}
    else:
        for look in (lambda: find_garbage(store, DAY), lambda: store.keys("units")):
            with pytest.raises(StoreError, match=rf"{moved}: is a symbolic link: the folders of a store must be real ones"):
                look()
    assert store.exists(blob.key)


def test_blobs_are_no_garbage_if_there_are_no_units_at_all(store: Store) -> None:
    writer = UnitWriter(store, "thing", "u", {}, {})
    writer.adopt("x", writer.put_blob(b"days of work"))
    writer.commit(Facts())
    make_older(store, 2 * DAY)
    shutil.move(Path(store.root, "units"), Path(store.root, "not mounted"))
    Path(store.root, "units").mkdir()
    with pytest.raises(StoreError, match="units: is empty, but there are blobs of units: mount its disk"):
        find_garbage(store, DAY)


@pytest.mark.parametrize("damage", ["gone", "cut"])
@pytest.mark.parametrize("kind", ["own", "blob"])
def test_a_unit_whose_objects_were_deleted_is_not_committed(store: Store, damage: str, kind: str) -> None:
    writer = UnitWriter(store, "thing", "u", {}, {})
    info = writer.put("x", b"1234") if kind == "own" else writer.adopt("x", writer.put_blob(b"1234"))
    writer.put("y", b"5678")
    writer.checkpoints.save(1, {"state": b"1"}, {"snapshots": {"x": info.model_dump()}})
    writer.checkpoints.save(2, {"state": b"2"}, {})
    if damage == "gone":
        make_older(store, 2 * DAY, info.key)
        store.delete([info.key])
    else:
        store.write(info.key, b"12")
    with pytest.raises(StoreError, match=rf"{info.key}: missing, or of another size, when its unit was .* \(1 such"):
        writer.commit(Facts())
    assert not store.exists("units/thing/u/manifest.json")
    left = writer.checkpoints.keys()
    assert [key.rpartition("/")[2][:8] for key in left] == ["00000002"], "the checkpoint that needs the object is removed"


def test_a_store_is_marked_as_one_before_its_first_object(store: Store) -> None:
    assert not is_store(store)
    UnitWriter(store, "thing", "u", {}, {}).commit(Facts())
    shutil.copytree(store.root, f"{store.root}-copy")
    assert is_store(Store(f"{store.root}-copy"))


@pytest.mark.parametrize("hours", ["inf", "nan", "1e30"])
def test_an_invalid_age_is_refused(store: Store, hours: str, capsys: pytest.CaptureFixture[str]) -> None:
    UnitWriter(store, "thing", "u", {}, {}).commit(Facts())
    assert "--min-age-hours" in gc(capsys, store.url, "--min-age-hours", hours, code=2)
