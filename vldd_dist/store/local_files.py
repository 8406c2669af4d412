"""Local files that a reader sees whole or not at all, whenever their writer dies."""

import contextlib
import os
import uuid
from collections.abc import Iterator

TEMPORARY = ".tmp-"


def replace_file(path: str, data: bytes) -> None:
    """Create or replace. Raises OSError, and leaves what was there."""
    os.replace(_temporary_beside(path, data), path)


def create_file(path: str, data: bytes) -> None:
    """Raises FileExistsError when there is one already, whoever made it a moment ago; OSError for what else goes wrong."""
    temporary = _temporary_beside(path, data)
    try:
        # A link is made by one caller only, and shows the whole file at once.
        os.link(temporary, path)
    finally:
        os.unlink(temporary)


def find_files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder with its status; what is removed meanwhile is left out, and nothing else.

    fsspec's `find` leaves out a whole folder when one of its files goes, or when it may not be read.

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
        # Not to be taken for a file that someone else made first.
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
