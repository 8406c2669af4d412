"""Writing local files atomically: a reader never sees a partly written file, even if the writer is killed."""

import contextlib
import os
import uuid
from collections.abc import Iterator

TEMPORARY = ".tmp-"


def replace_file(path: str, data: bytes) -> None:
    """Create or replace a file. If it raises OSError, the old file is unchanged."""
    os.replace(_temporary_beside(path, data), path)


def create_file(path: str, data: bytes) -> None:
    """Create a file. Raises FileExistsError if it exists, also if another caller creates it at the same time; else OSError."""
    temporary = _temporary_beside(path, data)
    try:
        # Only one of several concurrent callers can create the link, and it refers to the complete file.
        os.link(temporary, path)
    except FileExistsError:
        # On NFS the answer may have been lost, and the repeated request finds this caller's own link.
        if not os.path.samestat(os.stat(temporary), os.stat(path)):
            raise
    finally:
        os.unlink(temporary)


def find_files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder with its status. Files that are removed in the meantime are skipped.

    fsspec's `find` is not used, because it skips a whole folder if one of its files disappears or the folder is unreadable.

    Raises:
        OSError: a folder cannot be read.
    """

    def unless_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for where, _, names in os.walk(folder, onerror=unless_gone):
        for name in names:
            path = os.path.join(where, name)
            with contextlib.suppress(FileNotFoundError):
                yield path, os.stat(path)


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
