"""Pushing a set: it is verified before and after, never visible in part, and replaces something else only on request."""

import errno
import os
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import huggingface_hub
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from tests.distilled_set.folder_content import tree
from tests.distilled_sets import distilled_set, with_similarity
from vldd_dist import load_distilled
from vldd_dist.cli.main import main
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import read_manifest, verify
from vldd_dist.distilled_set.transfer.fetch import fetch
from vldd_dist.distilled_set.transfer.hub import name_on_hub, push_to_hub
from vldd_dist.distilled_set.transfer.push import push
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.store import retry
from vldd_dist.store.backends import file_systems
from vldd_dist.store.objects import sha256_hex
from vldd_dist.store.store import Store
from vldd_dist.testing.servers.s3_server import S3Server


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, str]:
    """Two sets; the second has a file that the first has not."""
    urls = str(tmp_path / "one"), str(tmp_path / "other")
    save(distilled_set(), urls[0])
    save(with_similarity({"kind": "full"}), urls[1])
    return urls


def test_to_a_folder(sets: tuple[str, str], tmp_path: Path) -> None:
    one, other = sets
    target = str(tmp_path / "target")
    push(other, target)
    assert tree(target) == tree(other)
    push(other, target)
    with pytest.raises(StoreError, match="another distilled set is there: name another folder, or give --replace"):
        push(one, target)
    assert tree(target) == tree(other)
    push(one, target, replace=True)
    assert tree(target) == tree(one)
    (Path(target) / "preview.png").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"preview\.png"):
        push(one, target)
    push(one, target, replace=True)
    assert tree(target) == tree(one)


def test_push_overwrites_only_files_of_an_interrupted_push(sets: tuple[str, str], tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "captions.jsonl").write_bytes((Path(sets[0]) / "captions.jsonl").read_bytes())
    (target / ".gitignore").write_text("mine")
    (target / "README.md").write_text("my project")
    with pytest.raises(StoreError, match=r"README\.md: another file is there"):
        push(sets[0], str(target))
    assert (target / "README.md").read_text() == "my project"
    (target / "README.md").unlink()
    push(sets[0], str(target))
    assert tree(target) == tree(sets[0]) | {".gitignore": b"mine"}


def test_a_damaged_set_is_not_pushed(sets: tuple[str, str], tmp_path: Path) -> None:
    (Path(sets[0]) / "preview.png").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"preview\.png: .*damaged"):
        push(sets[0], str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()


def test_a_reader_never_sees_a_mixture(sets: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each write of a replacement there is no valid set; after the last write there is the new one."""
    target, seen = str(tmp_path / "target"), []
    push(sets[0], target)
    original = Store.write

    def write(self: Store, key: str, data: bytes) -> None:
        seen.append(Store(target).exists("manifest.json"))
        original(self, key, data)

    monkeypatch.setattr(Store, "write", write)
    push(sets[1], target, replace=True)
    assert len(seen) == len(read_manifest(Store(target)).objects)
    assert not any(seen)


@pytest.mark.parametrize(("method", "last"), [("write", "preview.png"), ("create", "manifest.json")])
def test_an_interrupted_replacement_is_completed(
    sets: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, last: str
) -> None:
    """No file of the old set remains, and files that no set had are left alone."""
    target, original = tmp_path / "target", getattr(Store, method)
    push(sets[1], target)
    (target / "pairs/000001.tar").write_bytes(b"a shard of real pairs")

    def interrupted(self: Store, key: str, data: bytes) -> Any:
        if key == last:
            raise KeyboardInterrupt
        return original(self, key, data)

    with monkeypatch.context() as context:
        context.setattr(Store, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            push(sets[0], target, replace=True)
    push(sets[0], target, replace=True)
    assert tree(target) == tree(sets[0]) | {"pairs/000001.tar": b"a shard of real pairs"}


def test_a_set_is_not_pushed_to_itself(sets: tuple[str, str], tmp_path: Path) -> None:
    """If that were interrupted, no set would be left."""
    before = tree(sets[0])
    (tmp_path / "link").symlink_to(sets[0])
    for target in (sets[0], f"{sets[1]}/../one", str(tmp_path / "link"), f"file://{sets[0]}/"):
        with pytest.raises(StoreError, match=r": is the set itself: name another place"):
            push(sets[0], target, replace=True)
    assert tree(sets[0]) == before


def test_a_set_that_is_not_there_is_not_pushed(tmp_path: Path) -> None:
    """Into a folder that exists. A target that cannot be written is noticed before."""
    of_the_web, of_the_hub = ("https://host/x", "can only be read"), ("hf://datasets/x", "/USER/NAME")
    for target, sentence in ((str(tmp_path), r"missing/manifest\.json: "), of_the_web, of_the_hub):
        with pytest.raises(StoreError, match=sentence):
            push(tmp_path / "missing", target)


def test_the_folders_of_a_push_are_paths_or_texts(sets: tuple[str, str], tmp_path: Path) -> None:
    push(Path(sets[0]), tmp_path / "target")
    save(distilled_set(), tmp_path / "saved")
    fetch(tmp_path / "saved", tmp_path / "fetched")
    assert verify(tmp_path / "fetched") == verify(tmp_path / "target")
    assert load_distilled(tmp_path / "fetched").digest == load_distilled(sets[0]).digest


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_to_a_disk_without_hard_links(
    sets: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_links(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code), source, None, target)

    monkeypatch.setattr(os, "link", no_links)
    push(sets[0], tmp_path / "target")
    assert tree(tmp_path / "target") == tree(sets[0])
    store = Store(tmp_path / "store")
    assert store.create("mark", b"ours")
    assert not store.create("mark", b"theirs")
    assert store.read("mark") == b"ours"
    assert not store.creates_conditionally()
    assert list(tree(tmp_path / "store")) == ["mark"]


def test_from_object_storage_and_to_it(sets: tuple[str, str], s3: S3Server, tmp_path: Path) -> None:
    bucket = Store("s3://pushed/sets")
    bucket.fs.mkdir("pushed")
    push(sets[0], bucket.url_of("a"))
    push(bucket.url_of("a"), str(tmp_path / "back"))
    assert tree(tmp_path / "back") == tree(sets[0])
    push(sets[1], bucket.url_of("a"), replace=True)
    assert load_distilled(bucket.url_of("a")).digest == load_distilled(sets[1]).digest
    assert len(bucket.keys("a")) == len(tree(sets[1]))


class Hub:
    """The part of huggingface_hub.HfApi that `push_to_hub` uses, for one data set in memory."""

    def __init__(self, files: dict[str, bytes] | None = None, loses: str = "") -> None:
        self.files, self.loses, self.commits, self.private = {".gitattributes": b"", **(files or {})}, loses, 0, None

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert (repo_id, repo_type, exist_ok) == ("user/name", "dataset", True)
        self.private = private

    def repo_info(self, **where: Any) -> Any:
        return SimpleNamespace(sha=f"commit {self.commits}")

    def list_repo_files(self, **where: Any) -> list[str]:
        return list(self.files)

    def hf_hub_download(self, filename: str, **where: Any) -> Path:
        path = Path(self.folder) / "downloaded"
        path.write_bytes(self.files[filename])
        return path

    folder = ""

    def create_commit(self, operations: Sequence[Any], parent_commit: str, **rest: Any) -> Any:
        assert parent_commit == f"commit {self.commits}"
        self.commits += 1
        for operation in operations:
            if isinstance(operation, CommitOperationAdd):
                self.files[operation.path_in_repo] = Path(operation.path_or_fileobj).read_bytes()
            elif isinstance(operation, CommitOperationDelete):
                del self.files[operation.path_in_repo]
        return SimpleNamespace(oid=f"commit {self.commits}")

    def get_paths_info(self, paths: list[str], revision: str, **where: Any) -> list[RepoFile]:
        assert revision == f"commit {self.commits}"
        return [self._info(path, self.files[path]) for path in paths if path != self.loses]

    def _info(self, path: str, data: bytes) -> RepoFile:
        large = path.endswith((".safetensors", ".tar", ".png"))
        lfs = {"size": len(data), "oid": sha256_hex(data), "pointerSize": 100} if large else None
        return RepoFile(path=path, size=len(data), oid=sha1(b"blob %d\0" % len(data) + data).hexdigest(), lfs=lfs)


def to_hub(url: str, hub: Hub, *, replace: bool = False, public: bool = False) -> None:
    hub.folder = str(Path(url).parent)
    files = {name: Path(url) / name for name in tree(url)}
    push_to_hub(files, verify(url), "hf://datasets/user/name", replace=replace, public=public, api=hub)  # type: ignore[arg-type]


def test_to_the_hub_in_one_commit(sets: tuple[str, str]) -> None:
    one, other = sets
    hub = Hub()
    to_hub(other, hub)
    assert (hub.commits, hub.private) == (1, True)
    assert hub.files == tree(other) | {".gitattributes": b""}
    to_hub(other, hub)
    assert hub.commits == 1
    with pytest.raises(StoreError, match="another distilled set is there: name another data set, or give --replace"):
        to_hub(one, hub)
    to_hub(one, hub, replace=True, public=True)
    assert (hub.commits, hub.private) == (2, False)
    assert hub.files == tree(one) | {".gitattributes": b""}
    hub.files["README.md"] = b"edited"
    with pytest.raises(StoreError, match="push again with --replace"):
        to_hub(one, hub)
    to_hub(one, hub, replace=True)
    assert hub.files == tree(one) | {".gitattributes": b""}


def test_a_new_data_set_is_private_unless_the_command_asks_for_a_public_one(
    sets: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, private in (([], True), (["--public"], False)):
        hub = Hub()
        hub.folder = str(tmp_path)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda hub=hub: hub)
        with pytest.raises(SystemExit) as ended:
            main(["push", sets[0], "hf://datasets/user/name", *options])
        assert (ended.value.code, hub.private) == (0, private)
        assert hub.files == tree(sets[0]) | {".gitattributes": b""}
    with pytest.raises(ConfigError, match=r"--public: .* is not on the hub"):
        push(sets[0], tmp_path / "target", public=True)


def test_failed_pushes_to_the_hub_are_one_sentence_errors(sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"other files \(data\.csv\) are there"):
        to_hub(sets[0], Hub({"data.csv": b"x"}))
    with pytest.raises(StoreError, match=r"preview\.png: the hub does not hold what was sent"):
        to_hub(sets[0], Hub(loses="preview.png"))
    for error, words in (
        (OfflineModeIsEnabled("https://host/?token=secret"), "HF_HUB_OFFLINE is set"),
        (answer(401), "log in by `hf auth login`, or set HF_TOKEN"),
        (answer(412), "was changed while it was pushed to: push again"),
        (answer(500), r"failed \(HTTP 500\): push again"),
    ):

        def refuse(self: Hub, error: OSError = error, **where: Any) -> None:
            raise error

        monkeypatch.setattr(Hub, "repo_info", refuse)
        with pytest.raises(StoreError, match=words) as refused:
            to_hub(sets[0], Hub())
        assert "secret" not in str(refused.value)


def test_a_hub_that_cannot_be_reached_is_a_one_sentence_error(sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.5)
    api = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9", token="hf_secret")
    files = {name: Path(sets[0]) / name for name in tree(sets[0])}
    with pytest.raises(StoreError, match=r"user/name: the hub cannot be reached \(ConnectError\): push again") as refused:
        push_to_hub(files, verify(sets[0]), "hf://datasets/user/name", replace=False, public=False, api=api)
    assert "secret" not in str(refused.value)
    with pytest.raises(StoreError, match=r"manifest\.json: given up after"):
        load_distilled("hf://datasets/user/name")


def answer(status: int) -> OSError:
    error = OSError("https://host/?token=secret")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def test_places_on_the_hub() -> None:
    assert name_on_hub("hf://datasets/user/name") == ("user/name", None)
    assert name_on_hub("hf://datasets/user/my.name@v1/") == ("user/my.name", "v1")
    for url in ("hf://user/name", "hf://datasets/name", "hf://datasets/user/name/folder", "hf://models/user/name"):
        with pytest.raises(StoreError, match="hf://datasets/USER/NAME"):
            name_on_hub(url)


def test_a_set_is_read_from_the_hub(sets: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through fsspec; a folder replaces the hub's file system."""
    Path(sets[0]).parent.joinpath("datasets/user").mkdir(parents=True)
    Path(sets[0]).rename(tmp_path / "datasets/user/name@v1")
    local = DirFileSystem(str(tmp_path), fs=fsspec.filesystem("file"))
    monkeypatch.setattr(file_systems.fsspec, "filesystem", lambda scheme, **options: {"hf": local}[scheme])
    url = "hf://datasets/user/name@v1"
    digest = load_distilled(url).digest
    verify(url)
    fetch(url, tmp_path / "fetched")
    monkeypatch.undo()
    assert load_distilled(str(tmp_path / "fetched")).digest == digest
    with pytest.raises(StoreError, match="hf:// can only be read: write elsewhere, then `vldd push`"):
        save(distilled_set(), url)


@pytest.mark.parametrize(
    ("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("gcs", "gcs"), ("az", "azure"), ("abfs", "azure"), ("hf", "hf")]
)
def test_a_library_that_is_not_installed_is_named_by_its_extra(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(scheme: str, **options: Any) -> None:
        raise ImportError("Install it")

    monkeypatch.setattr(file_systems.fsspec, "filesystem", absent)
    with pytest.raises(SystemExit) as ended:
        main(["verify", f"{scheme}://place/user/name"])
    assert ended.value.code == 4
    assert f"{scheme}:// needs the extra '{extra}': pip install 'vldd_dist[{extra}]'" in capsys.readouterr().err


def test_the_command(sets: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (([sets[0]], 0), ([sets[1]], 4), ([sets[1], "--replace"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(["push", arguments[0], str(tmp_path / "target"), *arguments[1:]])
        assert ended.value.code == code, capsys.readouterr()
    assert tree(tmp_path / "target") == tree(sets[1])
