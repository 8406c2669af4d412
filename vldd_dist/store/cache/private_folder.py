"""Folders on a local disk that only this user can access, for files under a path that other users can guess.

A folder's owner and mode are checked after it is opened, and all further operations use its file descriptor. They therefore act
on the folder that was checked, even if it is renamed in the meantime. Symbolic links are not followed.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
import uuid
from collections.abc import Iterator
from functools import lru_cache
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from vldd_dist.store.backends.local_files import TEMPORARY

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO does not wait for its writer.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

logger = logging.getLogger(__name__)


class PrivateFolder:
    """An open folder, closed at the end of its `with` block. Every method raises OSError if the system refuses it."""

    def __init__(self, path: Path, within: int | None = None) -> None:
        """Open the folder `path`. If it does not exist, it is created with its parents.

        Args:
            within: file descriptor of the open parent folder; None: `path` is opened by its whole path.

        Raises:
            PermissionError: it belongs to another user, or other users may access it.
            OSError: it is a symbolic link or not a folder, or cannot be created.
        """
        self.path = path
        name: str | Path = path
        if within is None:
            os.makedirs(path.parent, exist_ok=True)
        else:
            name = path.name
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=within)
        try:
            self._descriptor = os.open(name, _FOLDER, dir_fd=within)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise NotADirectoryError(f"{path} is not a folder, or is a symbolic link: name the folder itself") from None
            raise
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        status = os.fstat(self._descriptor)
        if status.st_uid != os.getuid():
            raise PermissionError(f"{self.path} belongs to another user (uid {status.st_uid}): name another folder")
        if status.st_mode & 0o077:
            raise PermissionError(f"{self.path} is open to other users: chmod 700 it, or name another folder")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def folder(self, name: str) -> "PrivateFolder":
        """A folder in this one, created if it does not exist, and checked like this one."""
        return PrivateFolder(self.path / _plain(name), self._descriptor)

    def disk(self) -> tuple[int, int]:
        """The free bytes and the size in bytes of the disk on which the folder is."""
        status = os.fstatvfs(self._descriptor)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def names(self) -> list[str]:
        """Names of the files and folders in this folder."""
        return os.listdir(self._descriptor)

    def status(self, name: str) -> os.stat_result:
        """The status of a file; of a symbolic link, that of the link itself."""
        return os.stat(_plain(name), dir_fd=self._descriptor, follow_symlinks=False)

    def open_file(self, name: str, flags: int = os.O_RDONLY) -> FileIO:
        """Open a regular file. If `flags` create it, only this user can read it."""
        descriptor = os.open(_plain(name), flags | _FILE, 0o600, dir_fd=self._descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", str(self.path / name))
        return FileIO(descriptor, {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "r+"}[flags & os.O_ACCMODE])

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[FileIO]:
        """A file to write. It gets its name, replacing any file of that name, when the `with` block ends without an error."""
        temporary = f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with self.open_file(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as file:
                yield file
            os.replace(temporary, _plain(name), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(temporary)
            raise

    def unlink(self, name: str) -> None:
        os.unlink(_plain(name), dir_fd=self._descriptor)


@contextlib.contextmanager
def lock(root: PrivateFolder, name: str) -> Iterator[None]:
    """A lock between processes and threads, which the system releases if its holder dies. Raises OSError on a file system
    without locks."""
    with root.folder("locks") as folder, folder.open_file(name, os.O_CREAT | os.O_RDWR) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_all(file: FileIO, data: bytes) -> None:
    """Write all bytes. A single call of an unbuffered file's `write` may write fewer, for example if the disk is filling up."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]


def warn(what: str, error: OSError) -> None:
    """Log a warning once per process and kind of error, because the error will recur with every file."""
    _warn_once(what, error.strerror or str(error))


@lru_cache(maxsize=64)
def _warn_once(what: str, reason: str) -> None:
    logger.warning("%s: %s", what, reason)


def _plain(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "not a plain file name", name)
    return name
