"""A folder under way: `FOLDER.partial`, which becomes FOLDER when it is whole; a later call goes on with one left behind."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from vldd_dist.errors import StoreError
from vldd_dist.store.objects import ObjectInfo

# Whoever begins a partial folder writes this file into it first; a folder without it is someone else's, whatever its name.
MARKER = ".vldd-partial"
_MARK = b"An unfinished `vldd fetch` works in this folder: the same command goes on, or remove the folder.\n"


@contextmanager
def local_errors(folder: Path) -> Iterator[None]:
    """What the file system refuses becomes a StoreError with a sentence."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        place = getattr(error, "filename", None) or folder
        raise StoreError(f"{place}: {reason}: name a folder on a disk that this user may write and that has room") from None


class PartialFolder:
    """Files of the sizes that `objects` say, with what an earlier attempt left in them; one maker at a time.

    Raises:
        StoreError: the folder is not one that this class began, another process works in it, or the disk refuses.
    """

    def __init__(self, folder: Path, objects: Mapping[str, ObjectInfo]) -> None:
        self.folder, self.objects = folder, objects
        self.path = folder.with_name(folder.name + ".partial")
        self._stack = ExitStack()
        self._files: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            with local_errors(self.path):
                self._own()
                self._remove_others()
                self._check_room()
                for name, info in self.objects.items():
                    self._files[name] = self._open(name, info.size)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, name: str, start: int, length: int) -> bytes:
        with local_errors(self.path / name):
            return os.pread(self._files[name], length, start)

    def write(self, name: str, start: int, data: bytes) -> None:
        with local_errors(self.path / name):
            written = 0
            while written < len(data):
                written += os.pwrite(self._files[name], data[written:], start + written)

    def finish(self, more: Mapping[str, bytes]) -> None:
        """Add small files and give the folder its name. It must not have come to be in the meantime."""
        with local_errors(self.path):
            for name, data in more.items():
                self._files[name] = self._open(name, 0)
                self.write(name, 0, data)
            for descriptor in self._files.values():
                os.fsync(descriptor)
            os.rename(self.path, self.folder)
            # Last, so that a process that dies in between leaves a marked folder or a whole one.
            (self.folder / MARKER).unlink()

    def _own(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        marker = self.path / MARKER
        try:
            self.path.mkdir()
        except FileExistsError:
            # Part of the mark is what a process leaves that was killed while it wrote it.
            links = self.path.is_symlink() or marker.is_symlink()
            if links or not marker.is_file() or not _MARK.startswith(marker.read_bytes()):
                raise StoreError(
                    f"{self.path}: exists already and was not begun by a fetch: move it away, or name another folder"
                ) from None
        try:
            marker.write_bytes(_MARK)
        except OSError:
            with suppress(OSError):
                self.path.rmdir()
            raise
        self._lock(marker)

    def _lock(self, marker: Path) -> None:
        descriptor = os.open(marker, os.O_RDONLY | os.O_NOFOLLOW)
        self._stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{self.path}: another fetch is at work on it: let it end first") from None
        except OSError:
            # A file system without locks: two fetches of one set write the same bytes.
            return
        # Raises when whoever held the lock has finished the folder.
        marker.stat()

    def _remove_others(self) -> None:
        """Files left by an attempt at another version of the set, and links, which lead elsewhere."""
        for path in [*self.path.rglob("*")]:
            name = path.relative_to(self.path).as_posix()
            if path.is_symlink() or not (path.is_dir() or name == MARKER or name in self.objects):
                path.unlink()
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()

    def _check_room(self) -> None:
        held = sum(path.lstat().st_blocks * 512 for path in self.path.rglob("*") if path.is_file())
        needed, free = sum(info.size for info in self.objects.values()), shutil.disk_usage(self.path).free
        if needed > free + held:
            raise StoreError(
                f"{self.path}: {needed / 2**20:.1f} MiB are to be written and {(free + held) / 2**20:.1f} MiB are free: "
                "name a folder on a disk with room"
            )

    def _open(self, name: str, size: int) -> int:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # No link leads out of the folder.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        self._stack.callback(os.close, descriptor)
        os.truncate(descriptor, size)
        return descriptor
