"""Writing local files atomically: a reader never sees a partly written file, even if the writer is killed."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator

from vldd_dist.errors import StoreError

TEMPORARY = ".tmp-"
# What disks without hard links say: FAT and exFAT, and file systems in user space.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def replace_file(path: str, data: bytes) -> None:
    """Create or replace a file. If it raises OSError, the old file is unchanged."""
    os.replace(_temporary_beside(path, data), path)


def create_file(path: str, data: bytes, fall_back: bool) -> None:
    """Create a file.

    Args:
        fall_back: on a disk without hard links, check that the file does not exist, and then create it. If two callers do so at
            the same moment, both succeed, and the later bytes remain.

    Raises:
        FileExistsError: it exists; on a disk with hard links also if another caller creates it at the same time.
        NotImplementedError: the disk has no hard links, and `fall_back` is False.
        OSError: it cannot be written.
    """
    temporary = _temporary_beside(path, data)
    try:
        # Only one of several concurrent callers can create the link, and it refers to the complete file.
        os.link(temporary, path)
    except FileExistsError:
        # On NFS the answer may have been lost, and the repeated request finds this caller's own link.
        if not os.path.samestat(os.stat(temporary), os.stat(path)):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not fall_back:
            raise NotImplementedError(f"{path}: its disk has no hard links") from None
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def check_permission(path: str) -> None:
    """Raises OSError if this user cannot create a file there, or a folder that it needs. Nothing is created."""
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise NotADirectoryError(folder)
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


def find_files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder with its status. Files that are removed in the meantime are skipped.

    fsspec's `find` is not used, because it skips a whole folder if one of its files disappears or the folder is unreadable.

    Raises:
        OSError: a folder cannot be read.
        StoreError: a symbolic link leads to a folder or nowhere. Objects behind it can be read, so an incomplete list of what
            exists would have them computed again, or removed with `vldd gc`.
    """

    def unless_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error
        _refuse_link(error.filename)

    for where, folders, names in os.walk(folder, onerror=unless_gone):
        for name in folders:
            _refuse_link(os.path.join(where, name))
        for name in names:
            path = os.path.join(where, name)
            try:
                yield path, os.stat(path)
            except FileNotFoundError:
                _refuse_link(path)


def _refuse_link(path: str) -> None:
    if os.path.islink(path):
        raise StoreError(
            f"{path}: is a symbolic link: the folders of a store must be real ones: move the whole store, or mount a disk there"
        )


def _temporary_beside(path: str, data: bytes) -> str:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        # Not FileExistsError, which would mean that another caller has created the file itself.
        raise NotADirectoryError(folder) from None
    temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return temporary
