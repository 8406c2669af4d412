"""A fetch writes only into folders that it made itself, follows one manifest, and ends with a one-sentence error if it
fails."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_readme import distilled_set
from vldd_dist.artifacts.manifests import to_json
from vldd_dist.cli.main import main
from vldd_dist.distilled_set import reading
from vldd_dist.distilled_set.fetch import fetch
from vldd_dist.distilled_set.partial_folder import MARKER
from vldd_dist.distilled_set.reading import read_manifest, verify
from vldd_dist.distilled_set.write import save
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import ObjectInfo
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

    def replacing(self: Store, key: str) -> bytes:
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
    monkeypatch.setattr(Store, "read", lambda self, key: reads.append(key) or original(self, key))
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
        "x" * 300,
        MARKER,
        "",
    ],
)
def test_a_name_that_no_folder_can_hold_is_refused_before_anything_is_made(url: str, tmp_path: Path, name: str) -> None:
    seal(url, **{name: ObjectInfo.of(name, b"x")})
    for look in (lambda: fetch(url, tmp_path / "here" / "set"), lambda: verify(url)):
        with pytest.raises(StoreError, match=r"manifest\.json.*rejected") as refused:
            look()
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("size", "sentence"), [(2**62, "less than or equal to"), (2**52, "its manifest says 4503599627370496")]
)
def test_wrong_sizes_in_a_manifest_allocate_no_space(url: str, tmp_path: Path, size: int, sentence: str) -> None:
    info = ObjectInfo.of("preview.png", b"x").model_copy(update={"size": size})
    seal(url, **{"preview.png": info})
    for look in (lambda: fetch(url, tmp_path / "set"), lambda: verify(url)):
        with pytest.raises(StoreError, match=sentence):
            look()
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
