"""Reading images by names from untrusted data. Only files in one folder are ever read.

Errors do not say where a name was written: the caller adds that.
"""

import os
import platform
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vldd_dist.control_characters import one_line
from vldd_dist.data.files.tars import MAX_MEMBER_BYTES
from vldd_dist.errors import DataError, UnusableHere
from vldd_dist.in_order import in_order
from vldd_dist.store.retry import retried
from vldd_dist.store.user_files.opening import file_system, local_path
from vldd_dist.store.user_files.reachability import check_reachable, reason_of
from vldd_dist.store.user_files.regular_files import open_regular

# Parallel requests to a remote folder, and images that are read ahead.
REQUESTS, AHEAD = 16, 32


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images.

    Attributes:
        location: a local path or an fsspec URL.
        setting: the key of the description that names the folder, for error messages.
    """

    location: str
    setting: str

    def relative(self, name: str) -> str:
        """The normalised path in the folder for a name, which is relative to the folder or the absolute path of a file in it.

        Raises:
            DataError: the name leads out of the folder. Symbolic links in the folder are trusted.
        """
        within = self._without_folder(name)
        if within is None or "://" in within or within.startswith("/") or ".." in within.split("/"):
            is_web = name.startswith(("http://", "https://"))
            advice = "download it (img2dataset does)" if is_web else "keep the images within it"
            raise DataError(f"{one_line(name)} leads out of {self.setting}: {advice}")
        return posixpath.normpath(within)

    def read(self, relative: str) -> bytes:
        """The bytes of an image.

        Args:
            relative: a path that `relative` returned.

        Raises:
            DataError: the file is missing, not a regular file or too large.
            StoreError: the file cannot be reached at the moment, which says nothing about it; or the whole local folder is
                missing or empty, as where its disk is not mounted.
        """
        source = one_line(self.path(relative))
        try:
            data = self._local(relative) if self._root is not None else self._remote(relative)
        except Exception as error:
            # Client libraries of object stores raise exceptions of their own.
            check_reachable(source, error)
            if isinstance(error, FileNotFoundError):
                self.require_mounted()
            reason = "not a valid file name" if isinstance(error, ValueError) else reason_of(error)
            raise DataError(f"the file {source} cannot be read ({reason}): correct the folder or the entry") from None
        if len(data) > MAX_MEMBER_BYTES:
            raise DataError(f"the file {source} is larger than {MAX_MEMBER_BYTES >> 20} MiB: remove the entry")
        return data

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | DataError]:
        """The bytes of each image in order, or the error if it cannot be read. A remote folder is read in parallel.

        Raises:
            StoreError: as `read` does.
        """
        if self._root is not None:
            yield from map(self._read_or_error, names)
            return
        yield from in_order(self._read_or_error, names, threads=REQUESTS, ahead=AHEAD)

    def path(self, relative: str) -> str:
        """The path or URL of an image, for messages."""
        return posixpath.join(self.location, relative)

    def _read_or_error(self, name: str) -> bytes | DataError:
        try:
            return self.read(name)
        except DataError as error:
            return error

    def _without_folder(self, name: str) -> str | None:
        """The name without the folder at its beginning; None if it is an absolute name outside the folder."""
        if "://" in name:
            start = self.location.rstrip("/") + "/"
            return name[len(start) :] if name.startswith(start) else None
        if self._root is None or not name.startswith("/"):
            return name
        start = os.path.abspath(self._root).rstrip("/") + "/"
        return name[len(start) :] if name.startswith(start) else None

    def _local(self, relative: str) -> bytes:
        assert self._root is not None
        with open_regular(os.path.join(self._root, relative)) as file:
            return file.read(MAX_MEMBER_BYTES + 1)

    def _remote(self, relative: str) -> bytes:
        filesystem, folder = self._opened
        return retried(lambda seconds: filesystem.cat_file(posixpath.join(folder, relative), end=MAX_MEMBER_BYTES + 1))

    def require_mounted(self) -> None:
        """Raises UnusableHere if the local folder is missing or has nothing in it: samples whose images lie there are not
        bad."""
        if self._root is not None and _is_empty(self._root):
            raise UnusableHere(
                f"{self.setting}: {one_line(self.location)} is missing or empty on the machine {platform.node()}: mount it on "
                "every machine, or correct the path"
            )

    @cached_property
    def _root(self) -> str | None:
        """The local folder; None if it is remote."""
        return local_path(self.location)

    @cached_property
    def _opened(self) -> Any:
        return file_system(self.location)


def _is_empty(folder: str) -> bool:
    """Whether a folder is missing or has no entry. A folder that may be entered and not listed counts as filled."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
