"""An incomplete folder `FOLDER.partial`, which is renamed to FOLDER when it is complete and can be resumed until then."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from vldd_dist.errors import StoreError
from vldd_dist.store.objects import ObjectInfo

# Written first into a new partial folder: a folder without this file was not made by this class.
MARKER = ".vldd-partial"
_MARK = b"An unfinished `vldd fetch` works in this folder: the same command goes on, or remove the folder.\n"


@contextmanager
def local_errors(folder: Path) -> Iterator[None]:
    """Turns errors of the file system in the `with` block into StoreError."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        path = getattr(error, "filename", None) or folder
        raise StoreError(f"{path}: {reason}: name a folder on a disk with free space that this user may write to") from None


class PartialFolder:
    """Files of the sizes in `objects`, with the content that an earlier attempt wrote. Only one process at a time can use it.

    Raises:
        StoreError: the folder was not made by this class for this user, another process is using it or may be using it, or the
            file system refuses an operation.
    """

    def __init__(self, folder: Path, objects: Mapping[str, ObjectInfo]) -> None:
        self.folder, self.objects = folder, objects
        self.path = folder.with_name(folder.name + ".partial")
        self._stack = ExitStack()
        self._files: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            with local_errors(self.path):
                self._take_possession()
                self._remove_others()
                self._check_free_space()
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
        """Add small files and rename the folder. Raises StoreError if the final folder was created in the meantime."""
        with local_errors(self.path):
            for name, data in more.items():
                self._files[name] = self._open(name, 0)
                self.write(name, 0, data)
            for descriptor in self._files.values():
                os.fsync(descriptor)
            os.rename(self.path, self.folder)
            # Removed last, so that a process that is killed leaves either a marked partial folder or a complete folder.
            (self.folder / MARKER).unlink()

    def _take_possession(self) -> None:
        """Create the folder, or accept one that an earlier attempt left, and lock it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        marker, is_new = self.path / MARKER, True
        try:
            self.path.mkdir()
        except FileExistsError:
            is_new = False
            # A process that was killed while it wrote the marker leaves only its beginning.
            links = self.path.is_symlink() or marker.is_symlink()
            if links or not marker.is_file() or not _MARK.startswith(marker.read_bytes()) or _of_others(self.path, marker):
                raise StoreError(
                    f"{self.path}: exists already and was not made by a fetch: move it away, or name another folder"
                ) from None
        try:
            marker.write_bytes(_MARK)
        except OSError:
            with suppress(OSError):
                self.path.rmdir()
            raise
        self._lock(marker, is_new)

    def _lock(self, marker: Path, is_new: bool) -> None:
        # On NFS only a file that is open for writing can be locked.
        descriptor = os.open(marker, os.O_RDWR | os.O_NOFOLLOW)
        self._stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{self.path}: another fetch is using it: wait until it ends") from None
        except OSError as error:
            # The file system has no locks. Then only the process that has created the folder may use it.
            if not is_new:
                raise StoreError(
                    f"{self.path}: this disk has no locks ({error.strerror}), so that another fetch may be using it: remove it "
                    "if none is, or name another folder"
                ) from None
        # Raises if the previous holder of the lock has finished and renamed the folder.
        marker.stat()

    def _remove_others(self) -> None:
        """Remove files of another version of the set, and symbolic links, which may lead out of the folder."""
        for path in [*self.path.rglob("*")]:
            name = path.relative_to(self.path).as_posix()
            if path.is_symlink() or not (path.is_dir() or name == MARKER or name in self.objects):
                path.unlink()
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()

    def _check_free_space(self) -> None:
        allocated = sum(path.lstat().st_blocks * 512 for path in self.path.rglob("*") if path.is_file())
        needed = sum(info.size for info in self.objects.values())
        free = shutil.disk_usage(self.path).free
        if needed > free + allocated:
            raise StoreError(
                f"{self.path}: {needed / 2**20:.1f} MiB are needed, but {(free + allocated) / 2**20:.1f} MiB are free: "
                "name a folder on a disk with more free space"
            )

    def _open(self, name: str, size: int) -> int:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_NOFOLLOW: a symbolic link could lead out of the folder.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        self._stack.callback(os.close, descriptor)
        os.truncate(descriptor, size)
        return descriptor


def _of_others(*paths: Path) -> bool:
    """Whether one belongs to another user, who could change the folder during the fetch and afterwards."""
    return any(path.lstat().st_uid != os.getuid() for path in paths)
