"""A fetch writes only into folders that it made itself, follows one manifest, and ends with a one-sentence error if it
fails."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.distilled_sets import distilled_set
from vldd_dist.artifacts.manifests import to_json
from vldd_dist.cli.main import main
from vldd_dist.distilled_set import reading
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import read_manifest, verify
from vldd_dist.distilled_set.transfer.fetch import fetch
from vldd_dist.distilled_set.transfer.partial_folder import MARKER, PartialFolder
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import Block, Blocks, ObjectInfo
from vldd_dist.store.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    folder = str(tmp_path / "published")
    save(distilled_set(), folder)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def own_folder(partial: Path) -> None:
    partial.mkdir()
    (partial / "chapter.tex").write_bytes(b"years of work")
    (partial / "README.md").write_bytes(b"mine")


def own_empty_folder(partial: Path) -> None:
    partial.mkdir()


def own_file(partial: Path) -> None:
    partial.write_bytes(b"mine")


def own_folder_elsewhere(partial: Path) -> None:
    elsewhere = partial.with_name("elsewhere")
    own_folder(elsewhere)
    partial.symlink_to(elsewhere)


def marker_of_another(partial: Path) -> None:
    own_folder(partial)
    (partial / MARKER).write_bytes(b"not what a fetch writes")


@pytest.mark.parametrize("make", [own_folder, own_empty_folder, own_file, own_folder_elsewhere, marker_of_another])
def test_a_partial_folder_of_someone_else_is_left_as_it_is(url: str, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "paper.partial")
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=r"paper\.partial: exists already and was not made by a fetch: move it away"):
        fetch(url, tmp_path / "paper")
    assert tree(tmp_path) == before
    assert not (tmp_path / "paper").exists()


def test_symbolic_links_in_a_partial_folder_are_not_followed(url: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    own_folder(outside)
    before = tree(outside)
    partial = tmp_path / "paper.partial"
    partial.mkdir()
    (partial / MARKER).touch()
    (partial / "pairs").symlink_to(outside)
    (partial / "README.md").symlink_to(outside / "README.md")
    fetch(url, tmp_path / "paper")
    assert tree(outside) == before
    verify(str(tmp_path / "paper"))


def test_two_fetches_into_one_folder_do_not_mix(url: str, tmp_path: Path) -> None:
    partial = tmp_path / "paper.partial"
    partial.mkdir()
    (partial / MARKER).touch()
    with (partial / MARKER).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another fetch is using it"):
            fetch(url, tmp_path / "paper")
    fetch(url, tmp_path / "paper")
    assert set(tree(tmp_path / "paper")) == {*read_manifest(Store(url)).objects, "manifest.json"}


def test_a_partial_folder_of_another_user_is_not_used(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = tmp_path / "paper.partial"
    partial.mkdir()
    (partial / MARKER).touch()
    monkeypatch.setattr(os, "getuid", lambda: partial.stat().st_uid + 1)
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=r"paper\.partial: exists already and was not made by a fetch"):
        fetch(url, tmp_path / "paper")
    assert tree(tmp_path) == before


def nfs(descriptor: int, operation: int) -> None:
    """NFS locks only files that are open for writing."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    flock(descriptor, operation)


def no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


flock = fcntl.flock


@pytest.mark.parametrize(
    ("disk", "sentence"), [(nfs, "another fetch is using it"), (no_locks, "this disk has no locks .*remove it if none is")]
)
def test_two_fetches_do_not_mix_on_a_network_disk(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[[int, int], None], sentence: str
) -> None:
    """The second begins when the first is about to rename the folder."""
    monkeypatch.setattr(fcntl, "flock", disk)
    rename = os.rename

    def begin_another(path: Path, target: Path) -> None:
        with pytest.raises(StoreError, match=sentence), PartialFolder(tmp_path / "paper", read_manifest(Store(url)).objects):
            pass
        rename(path, target)

    monkeypatch.setattr(os, "rename", begin_another)
    fetch(url, tmp_path / "paper")
    verify(str(tmp_path / "paper"))


def another_set() -> dict[str, bytes]:
    """The files of another set with the same shapes, so that their sizes are equal."""
    other = distilled_set()
    other.rows["images"] = other.rows["images"] + 1
    save(other, "memory://another-set")
    store = Store("memory://another-set")
    return {name: store.read(name) for name in [*read_manifest(store).objects, "manifest.json"]}


@pytest.mark.parametrize("at", range(8))
def test_fetching_a_set_that_is_replaced_gives_the_old_set_or_a_one_sentence_error(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before each read in turn, objects and manifest are replaced by another set's."""
    store, other, reads = Store(url), another_set(), 0
    wanted = read_manifest(store)
    monkeypatch.setattr(reading, "PARALLEL_READS", 1)
    original = Store.read

    def replacing(self: Store, key: str, at_most: int | None = None) -> bytes:
        nonlocal reads
        if self.url == store.url:
            if reads == at:
                for name, data in other.items():
                    store.write(name, data)
            reads += 1
        return original(self, key)

    monkeypatch.setattr(Store, "read", replacing)
    target = tmp_path / "fetched"
    # Before the first read nothing is fetched; after the last one everything is.
    if at in (0, 7):
        fetched = fetch(url, target)
        assert fetched == verify(str(target))
        assert (fetched == wanted) == (at == 7)
    else:
        with pytest.raises(StoreError, match="the set was replaced or removed while it was fetched: fetch it again"):
            fetch(url, target)
        assert not target.exists()
    # The files of an interrupted fetch do not disturb the next one.
    fetch(url, tmp_path / "again")
    if at < 7:
        assert fetch(url, target) == verify(str(target)) != wanted


def test_the_manifest_of_a_fetch_is_read_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    original = Store.read
    monkeypatch.setattr(Store, "read", lambda self, key, at_most=None: reads.append(key) or original(self, key))
    fetch(url, tmp_path / "fetched")
    assert reads.count("manifest.json") == 1


def seal(url: str, **objects: ObjectInfo) -> None:
    """Add objects to a set's manifest, with a valid seal."""
    store = Store(url)
    manifest = read_manifest(store)
    store.write("manifest.json", to_json(manifest.model_copy(update={"objects": manifest.objects | objects})))


@pytest.mark.parametrize(
    "name",
    [
        "README.md/x",
        "readme.MD",
        "manifest.json",
        "manifest.json/x",
        "a\x00b",
        "a\nb",
        "a\x1b[2Jb",
        "a//b",
        "./a",
        "a\\b",
        "x" * 300 + ".png",
        MARKER,
        "",
        ".git/config",
        "a/.hidden.json",
        "torch.py",
        "-x.png",
        "pairs/images",
    ],
)
def test_a_name_that_no_set_has_is_refused_before_anything_is_made(url: str, tmp_path: Path, name: str) -> None:
    seal(url, **{name: ObjectInfo.of(name, b"x")})
    for look in (lambda: fetch(url, tmp_path / "here" / "set"), lambda: verify(url)):
        with pytest.raises(StoreError, match=r"manifest\.json.*rejected") as refused:
            look()
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("size", "sentence"),
    [(2**62, "less than or equal to"), (2**52, "has blocks of more than"), (8 << 20, "its manifest says 8388608")],
)
def test_wrong_sizes_in_a_manifest_allocate_no_space(url: str, tmp_path: Path, size: int, sentence: str) -> None:
    info = ObjectInfo.of("preview.png", b"x").model_copy(update={"size": size})
    seal(url, **{"preview.png": info})
    for look in (lambda: fetch(url, tmp_path / "set"), lambda: verify(url)):
        with pytest.raises(StoreError, match=sentence):
            look()
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


@pytest.mark.parametrize("blocks", [None, 9 << 20])
def test_an_object_whose_blocks_fill_the_memory_is_refused(url: str, tmp_path: Path, blocks: int | None) -> None:
    info = ObjectInfo.of("preview.png", b"x").model_copy(update={"size": 16 << 20})
    if blocks:
        info = info.model_copy(update={"blocks": Blocks(size=blocks, sha256=["0" * 64] * 2)})
    seal(url, **{"preview.png": info})
    for look in (lambda: fetch(url, tmp_path / "set"), lambda: verify(url)):
        with pytest.raises(StoreError, match=r"'preview\.png' has blocks of more than 8388608 bytes: the manifest is rejected"):
            look()


def test_verifying_holds_only_the_blocks_that_are_being_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block arrives last: all others must not wait for it in memory."""
    held, most, left, last, lock = 0, 0, 100, threading.Event(), threading.Lock()

    class Counted:
        def __init__(self) -> None:
            nonlocal held, most
            with lock:
                held += 1
                most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            with lock:
                held -= 1

    def load(store: Store, info: ObjectInfo, block: Block) -> Counted:
        nonlocal left
        loaded = Counted()
        with lock:
            left -= 1
            if left == 0:
                last.set()
        if block.start == 0:
            last.wait(10)
        return loaded

    blocks = [Block(start, 1, "0" * 64) for start in range(100)]
    monkeypatch.setattr(reading, "load_block", load)
    monkeypatch.setattr(ObjectInfo, "block_list", lambda self: blocks if self.key == "preview.png" else [])
    verify(url)
    assert left == 0
    assert most <= reading.PARALLEL_READS + 1


def test_a_fetch_to_object_storage_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a path, the URL would be a folder `s3:` in the working directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["fetch", url, "s3://bucket/x"])
    assert ended.value.code == 4
    assert f"s3://bucket/x: a set is fetched to a local folder: use `vldd push {url} s3://bucket/x`" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_a_disk_without_room_is_named_before_anything_is_fetched(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match=r"are needed, but 0\.0 MiB are free"):
        fetch(url, tmp_path / "set")


def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make access fail as for a user without permissions, because root has all permissions."""

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("place", ["file/set", "no-rights/set", "x" * 300, "/proc/vldd"])
def test_an_unwritable_place_is_a_one_sentence_error(
    url: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    if place == "no-rights/set":
        unwritable(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main(["fetch", url, str(tmp_path / place)])
    said = capsys.readouterr().err
    assert ended.value.code == 4
    assert "name a folder on a disk with free space that this user may write to" in said
    assert said.count("\n") == 1
    assert (tmp_path / "file").read_bytes() == b"mine"
