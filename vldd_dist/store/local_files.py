"""Local files that appear complete: a reader never sees a partly written file, even if the writer is killed."""

import contextlib
import os
import uuid
from collections.abc import Iterator

TEMPORARY = ".tmp-"


def replace_file(path: str, data: bytes) -> None:
    """Create or replace a file. Raises OSError, and then leaves the old file as it was."""
    os.replace(_temporary_beside(path, data), path)


def create_file(path: str, data: bytes) -> None:
    """Create a file. Raises FileExistsError when it exists, also if it was created at the same moment; OSError otherwise."""
    temporary = _temporary_beside(path, data)
    try:
        # Only one of several concurrent callers can make the link, and the link shows the complete file.
        os.link(temporary, path)
    finally:
        os.unlink(temporary)


def find_files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder with its status. Files that are removed in the meantime are left out.

    fsspec's `find` is not used: it leaves out a whole folder when one of its files disappears or the folder is unreadable.

    Raises:
        OSError: a folder cannot be read.
    """

    def unless_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, _, names in os.walk(folder, onerror=unless_gone):
        for name in names:
            path = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError):
                yield path, os.stat(path)


def _temporary_beside(path: str, data: bytes) -> str:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        # A FileExistsError would be taken for a file that another caller created first.
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
