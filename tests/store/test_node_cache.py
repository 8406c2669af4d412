"""The node's cache in a folder whose name other users can guess: their files are not used, links are not followed, and a fault
of the cache fails no unit."""

import contextlib
import errno
import fcntl
import logging
import os
import resource
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vldd_dist.ray_backend import doctor
from vldd_dist.store.backends.local_files import TEMPORARY
from vldd_dist.store.cache import private_folder
from vldd_dist.store.cache.eviction import ABANDONED_SECONDS
from vldd_dist.store.cache.node_cache import NodeCache
from vldd_dist.store.cache.private_folder import PrivateFolder
from vldd_dist.store.objects import sha256_hex

BLOCKS = [bytes([number]) * 1000 for number in range(8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(folder: Path) -> NodeCache:
    """A cache that holds four blocks."""
    return NodeCache(folder, 4 * 1000 + 500)


@pytest.fixture(autouse=True)
def warnings_are_new() -> None:
    private_folder._warn_once.cache_clear()


def get(cache: NodeCache, number: int) -> bool:
    """Whether the block had to be loaded. The bytes are checked."""
    loads: list[bytes] = []

    def load() -> bytes:
        loads.append(BLOCKS[number])
        return BLOCKS[number]

    assert cache.get(sha256_hex(BLOCKS[number]), 1000, load) == BLOCKS[number]
    return bool(loads)


def place(folder: Path, number: int) -> Path:
    digest = sha256_hex(BLOCKS[number])
    return folder / digest[:2] / digest


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def test_folder_and_files_are_this_users_alone(cache: NodeCache, folder: Path) -> None:
    umask = os.umask(0)
    try:
        assert get(cache, 0)
    finally:
        os.umask(umask)
    assert not get(cache, 0)
    assert modes(folder) == {0o600}
    folders = {folder} | {path for path in folder.rglob("*") if path.is_dir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755, 0o701])
def test_a_folder_open_to_others_is_not_used(
    cache: NodeCache, folder: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(mode)
    assert get(cache, 0)
    assert get(cache, 0)
    assert list(folder.iterdir()) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "once, not for each block"
    assert f"{folder} is open to other users: chmod 700 it" in caplog.text


def test_a_folder_of_another_user_is_not_used(
    cache: NodeCache, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert get(cache, 0)
    assert list(folder.iterdir()) == []
    assert "belongs to another user" in caplog.text


def test_a_link_in_the_folders_place_is_not_followed(cache: NodeCache, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    assert get(cache, 0)
    assert list(elsewhere.iterdir()) == []


def test_eviction_does_not_follow_links(cache: NodeCache, folder: Path, tmp_path: Path) -> None:
    """The folder of blocks, blocks, the lock and the tally are symbolic links."""
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o700)
    digests = [sha256_hex(block) for block in BLOCKS]
    for digest in digests:
        (precious / digest).write_bytes(b"precious")
    (precious / "large").write_bytes(bytes(100_000))
    folder.mkdir(mode=0o700)
    (folder / "filled").symlink_to(precious / "large")
    unused = next(f"{number:02x}" for number in range(256) if f"{number:02x}" not in {digest[:2] for digest in digests})
    (folder / unused).symlink_to(precious)
    (folder / digests[0][:2]).symlink_to(precious)
    (folder / digests[1][:2]).mkdir(mode=0o700)
    (folder / digests[1][:2] / digests[1]).symlink_to(precious / digests[1])
    (folder / "locks").mkdir(mode=0o700)
    (folder / "locks" / digests[2][:3]).symlink_to(precious / digests[2])
    for _ in range(2):
        for number in range(len(BLOCKS)):
            get(cache, number)
    assert {path.name for path in precious.iterdir()} == {*digests, "large"}
    assert {(precious / digest).read_bytes() for digest in digests} == {b"precious"}
    assert (precious / "large").read_bytes() == bytes(100_000)
    held = [path for path in folder.glob("??/*") if not path.parent.is_symlink()]
    assert sum(path.lstat().st_size for path in held) <= cache.limit_bytes


def test_a_fifo_or_a_folder_in_a_blocks_place_makes_nobody_wait(cache: NodeCache, folder: Path) -> None:
    get(cache, 3)
    for number, make in ((0, os.mkfifo), (1, os.mkdir)):
        place(folder, number).parent.mkdir(mode=0o700)
        make(place(folder, number))
        get(cache, number)
    os.mkfifo(folder / "locks" / sha256_hex(BLOCKS[2])[:3])
    assert get(cache, 2)


@pytest.mark.parametrize(
    "tally", [b"", bytes(64), b"-1000000", b"12 34", "٣".encode(), b"9" * 5000, b"\xff\xfe", b"1e9", b"nan", None]
)
def test_a_damaged_tally_only_causes_earlier_eviction(cache: NodeCache, folder: Path, tally: bytes | None) -> None:
    get(cache, 0)
    (folder / "filled").unlink()
    if tally is None:
        (folder / "filled").mkdir()
    else:
        (folder / "filled").write_bytes(tally)
    for number in range(len(BLOCKS)):
        get(cache, number)
    assert sum(path.stat().st_size for path in folder.glob("??/*")) <= cache.limit_bytes


def test_a_temporary_file_goes_when_its_writer_must_have_died(cache: NodeCache, folder: Path) -> None:
    get(cache, 0)
    old, new = (place(folder, 0).with_name(f"{TEMPORARY}{age}") for age in ("old", "new"))
    for file, age in ((old, ABANDONED_SECONDS + 60), (new, ABANDONED_SECONDS - 60)):
        file.write_bytes(b"half a block")
        os.utime(file, (time.time() - age,) * 2)
    for number in range(1, len(BLOCKS)):
        get(cache, number)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(
    cache: NodeCache, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(file: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    assert get(cache, 0)
    assert get(cache, 0)
    assert caplog.text.count("cannot be used") == 1


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """No file can grow any more, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 500, 999])
def test_a_full_disk(cache: NodeCache, folder: Path, room: int) -> None:
    with files_no_larger_than(room):
        assert get(cache, 0)
        assert get(cache, 0)
    assert list(folder.glob("??/*")) == [], "nothing half-written is left"
    assert get(cache, 0)
    assert not get(cache, 0)


def test_a_folder_that_can_only_be_read(cache: NodeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get(cache, 0)
    opened = os.open

    def read_only(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, mode, dir_fd=dir_fd)

    def no_times(*arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", no_times)
    assert not get(cache, 0), "existing blocks are used"
    assert get(cache, 1)


def test_an_invalid_digest_is_not_used_as_a_path(cache: NodeCache, folder: Path) -> None:
    for digest in ("..", "../../x", "\0", "\ud800", "", "A" * 64):
        assert cache.get(digest, 1, lambda: b"x") == b"x"
    assert not folder.exists()


def test_errors_of_loading_pass_through_the_cache(cache: NodeCache) -> None:
    def fail() -> bytes:
        raise OSError("the store's own")

    with pytest.raises(OSError, match="the store's own"):
        cache.get(sha256_hex(b"x"), 1, fail)
    assert get(cache, 0)
    assert not get(cache, 0)


def test_doctor_says_why_a_cache_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setenv("VLDD_CACHE_DIR", str(folder))
    (finding,) = doctor._cache()
    assert finding.verdict == "NOTE"
    assert "chmod 700" in finding.says


def test_a_disk_that_is_nearly_full_gets_space_back_and_is_not_filled(
    cache: NodeCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        assert get(cache, number)
        os.utime(place(folder, number), (number, number))
    # The disk lacks 500 bytes until the oldest block is removed.
    monkeypatch.setattr(PrivateFolder, "disk", lambda self: (1500 if place(folder, 0).exists() else 2500, 20_000))
    assert get(cache, 3)
    assert [place(folder, number).exists() for number in range(4)] == [False, True, True, True]
    # It stays full whatever is removed: the block is still returned, and not written.
    monkeypatch.setattr(PrivateFolder, "disk", lambda self: (0, 20_000))
    assert get(cache, 4)
    assert [place(folder, number).exists() for number in range(5)] == [False, False, False, True, False]
