"""The kinds of file systems that a store can be on."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError
from vldd_dist.store.backends.file_systems import PART_ATTEMPTS, missing_library, open_file_system
from vldd_dist.store.backends.listing import Listed, Page, by_key

# Further arguments of a file system's call: the seconds that it may take, if the file system supports such a limit.
Limit = dict[str, float]
_FILE_SYSTEMS = ("fs", "fs_for_parts")


class Backend(ABC):
    """One kind of file system: how its objects are read, written and listed, each by one attempt. Errors are those of the file
    system; the store retries, and turns them into its own.

    Args:
        root: path of the store, without a trailing slash.

    Attributes:
        is_local: whether objects can be read without a network.
        write_instead: where to write, if objects can only be read; None: they can be written.
    """

    is_local: ClassVar[bool] = False
    write_instead: ClassVar[str | None] = None

    def __init__(self, scheme: str, root: str) -> None:
        self.scheme, self.root = scheme, root
        self.url = f"{scheme}://{root}"

    def __getstate__(self) -> dict[str, Any]:
        # A file system holds sockets and threads of this process; an unpickled backend opens its own.
        return {key: value for key, value in self.__dict__.items() if key not in _FILE_SYSTEMS}

    @cached_property
    def fs(self) -> AbstractFileSystem:
        """The fsspec file system. Its client makes one attempt at each request, because the store retries."""
        return self._open(attempts=1)

    @cached_property
    def fs_for_parts(self) -> AbstractFileSystem:
        """The file system for multipart uploads, whose client retries each part."""
        return self._open(PART_ATTEMPTS)

    def _open(self, attempts: int) -> AbstractFileSystem:
        try:
            return open_file_system(self.scheme, attempts)
        except ImportError as error:
            raise StoreError(f"{self.url}: {missing_library(self.scheme, error)}") from None

    def renew(self) -> None:
        """Forget the file systems. New ones read the profile or role again, which may hold a fresh token by now."""
        for name in _FILE_SYSTEMS:
            self.__dict__.pop(name, None)

    def limit(self, seconds: float) -> Limit:
        """The arguments that limit the duration of a call."""
        return {"timeout": seconds} if isinstance(self.fs, AsyncFileSystem) else {}

    def path_of(self, key: str) -> str:
        """The path of an object in the file system."""
        return f"{self.root}/{key}"

    def read(self, path: str, at_most: int | None) -> bytes:
        """The whole object. Its size is unknown, so the duration is not limited; the client limits the wait for each byte.

        Args:
            at_most: the size that the object should have. Of a larger one, `at_most` + 1 bytes are read, or in a bucket all.
        """
        return bytes(self.fs.cat_file(path))

    def read_range(self, path: str, start: int, length: int, limit: Limit) -> bytes:
        """`length` bytes from byte `start`."""
        return bytes(self.fs.cat_file(path, start=start, end=start + length, **limit))

    def info(self, path: str, limit: Limit) -> dict[str, Any]:
        """What the file system reports of an object; `size` is its size in bytes."""
        return dict(self.fs.info(path, **limit))

    def find(self, path: str, temporary: bool, page: str | None, limit: Limit) -> Page:
        """The objects below `path`, in pages if the file system lists them in pages.

        Args:
            temporary: whether to include files that local writers have not finished, or left behind when they were killed.
            page: `following` of the page before; None: the first page.
        """
        found = {str(name): Listed.of(info) for name, info in self.fs.find(path, detail=True).items()}
        return Page(by_key(found, self.root, temporary))

    def require_writable(self) -> None:
        """Raises StoreError if objects can only be read."""
        if self.write_instead is not None:
            raise StoreError(f"{self.url}: {self.scheme}:// can only be read: {self.write_instead}")

    def check_permission(self, path: str) -> None:
        """Raises OSError or StoreError if this user may not create the object, as far as that is known without a request."""
        return

    def first_request(self, size: int) -> Callable[[str, Limit], None] | None:
        """A small request, given the path, that must succeed before an object of this size is written; None: there is none."""
        return None

    @abstractmethod
    def write(self, path: str, data: bytes, limit: Limit) -> None:
        """Create or replace an object; it is replaced as a whole."""

    @abstractmethod
    def create(self, path: str, data: bytes, limit: Limit, fall_back: bool = True) -> None:
        """Create an object unless it exists.

        Args:
            fall_back: where a condition is not supported, check that the object does not exist, and then create it.

        Raises:
            FileExistsError, or the file system's own error: the object exists.
            OSError or NotImplementedError that `says_not_implemented`: conditions are not supported, and `fall_back` is False.
        """

    @abstractmethod
    def confirm(self, path: str, data: bytes, limit: Limit) -> None:
        """Check that the store holds what this caller has created, and otherwise send it again.

        Raises:
            FileNotFoundError: the object has been removed since.
        """

    def reports_checksum(self, path: str, data: bytes, limit: Limit) -> bool:
        """Whether what was written is compared with a checksum that the store reports, so that it need not be read back.

        Args:
            data: the content of the object.
        """
        return True

    def abort_uploads(self, path: str, before: datetime, abort: bool) -> list[str]:
        """Abort (or only find) multipart uploads below `path` that were last continued before a time. Returns their keys."""
        return []
