"""A store: any fsspec URL under which an experiment keeps everything it produces.

A write replaces the object atomically, and the stored object is then compared with what was sent. `create` is the conditional
put on which commits rely: a hard link for local files, If-None-Match for S3, a lock for memory. Transient faults are retried
with jitter for `retry.DEADLINE_SECONDS`; a refusal (no permission, no bucket) is an error at once. Credentials come from the
environment, a profile or a role, and never appear in a message, pickle or object. http(s) and hf URLs can only be read.
"""

import contextlib
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError
from vldd_dist.store.backends.base import Limit
from vldd_dist.store.backends.kinds import backend_of
from vldd_dist.store.backends.listing import NEVER, Listed, Page
from vldd_dist.store.faults import says_exists, says_no_bucket, says_not_implemented, store_error, token_expired
from vldd_dist.store.location import Location, parse_location
from vldd_dist.store.retry import retried

Out = TypeVar("Out")


class MissingObject(StoreError):
    """The store answered that there is no such object. It is not raised if the store cannot be reached."""


class Store:
    """Objects under one URL, by keys such as `units/expert/ID/manifest.json` (relative, separated by '/').

    Args:
        url: a folder, or a file://, s3://, gs:// or memory:// URL without credentials; http(s):// and hf:// for reading only.

    Raises:
        StoreError: the URL is empty, has an unknown scheme, or contains credentials.
    """

    def __init__(self, url: Location) -> None:
        self.scheme, self.root = parse_location(url)
        self.url = f"{self.scheme}://{self.root}"
        self.backend = backend_of(self.scheme, self.root)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @property
    def fs(self) -> AbstractFileSystem:
        """The fsspec file system."""
        return self.backend.fs

    @property
    def is_local(self) -> bool:
        """Whether objects can be read without a network."""
        return self.backend.is_local

    def require_writable(self) -> None:
        """Raises StoreError if stores with this scheme can only be read."""
        self.backend.require_writable()

    def url_of(self, key: str) -> str:
        """The full URL of a key or a key prefix."""
        return f"{self.url}/{_checked(key)}"

    def read(self, key: str, at_most: int | None = None) -> bytes:
        """The whole object. Raises MissingObject if there is none.

        Args:
            at_most: the size that the object should have. Of a larger one, `at_most` + 1 bytes are read, or in a bucket all.
        """
        return self._guarded(key, lambda path, limit: self.backend.read(path, at_most))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from byte `start`."""
        return self._guarded(key, lambda path, limit: self.backend.read_range(path, start, length, limit), size=length)

    def write(self, key: str, data: bytes) -> None:
        """Create or replace an object. A concurrent reader sees the old or the new bytes, never a mixture."""
        self.require_writable()
        if (first_request := self.backend.first_request(len(data))) is not None:
            self._guarded(key, first_request)
        self._guarded(key, lambda path, limit: self.backend.write(path, data, limit), size=len(data))

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists. Returns True for the one caller that created it.

        If the answer to a successful put is lost, the put is repeated (here or by the client library) and finds its own object,
        which is recognised by comparing the bytes. On a server without conditional puts, an existing object is never replaced,
        except if two callers create it at the same moment: both may get True, and the later bytes remain.
        """
        self.require_writable()
        attempts = 0

        def put(path: str, limit: Limit) -> bool:
            nonlocal attempts
            attempts += 1
            try:
                self.backend.create(path, data, limit)
                return True
            except OSError as error:
                if not says_exists(error):
                    raise
                repeated = attempts > 1 or not self.is_local
                return repeated and self.fs.cat_file(path, **limit) == data

        def confirm(path: str, limit: Limit) -> None:
            # If it was removed in the meantime, there is nothing to compare.
            with contextlib.suppress(FileNotFoundError):
                self.backend.confirm(path, data, limit)

        created = self._guarded(key, put, size=len(data))
        if created and not self.is_local:
            self._guarded(key, confirm, size=len(data))
        return created

    def creates_conditionally(self) -> bool:
        """Whether the server itself refuses to create an object that exists; determined by trying."""
        key = _probe_key()

        def refused(path: str, limit: Limit) -> bool:
            try:
                for data in (b"one", b"another"):
                    self.backend.create(path, data, limit, fall_back=False)
            except (OSError, NotImplementedError) as error:
                if says_exists(error):
                    return True
                if not says_not_implemented(error):
                    raise
            return False

        try:
            return self._guarded(key, refused)
        finally:
            self.delete([key])

    def reports_checksums(self) -> bool:
        """Whether what is written is compared with a checksum that the store reports. If not, each object is read back."""
        key, data = _probe_key(), b"vldd"
        self.write(key, data)
        try:
            return self._guarded(key, lambda path, limit: self.backend.reports_checksum(path, data, limit))
        finally:
            self.delete([key])

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        # Not by fsspec's `exists`, which for local files and web servers takes every error for no.
        try:
            self._info(key)
        except MissingObject:
            return False
        return True

    def size(self, key: str) -> int:
        """The object's size in bytes. Raises MissingObject if there is none."""
        size = self._info(key)["size"]
        if size is None:
            raise StoreError(f"{self.url_of(key)}: the server does not report the object's size: use another server")
        return int(size)

    def modified(self, key: str) -> datetime:
        """When the object was written, by the store's clock and with time zone."""
        return Listed.of(self._info(key)).modified

    def now(self) -> datetime:
        """The time by the store's clock, with time zone, at most a second too late. It is determined by writing an object."""
        key = _probe_key()
        self.write(key, b"clock")
        try:
            moment = self.modified(key)
        finally:
            self.delete([key])
        if moment == NEVER:
            raise StoreError(
                f"{self.url}: this kind of store does not report when an object was written, so ages are unknown: use another"
            )
        # S3 rounds down to seconds here, but not in listings.
        return moment if moment.microsecond else moment + timedelta(seconds=1)

    def keys(self, prefix: str) -> list[str]:
        """All keys under a prefix, recursively and sorted; empty if there are none."""
        return list(self.listing(prefix))

    def listing(self, prefix: str, temporary: bool = False) -> dict[str, Listed]:
        """The same as `keys`, with each object's size and time.

        Args:
            temporary: whether to include files that local writers have not finished, or left behind when they were killed.

        Raises:
            StoreError: the store is a web server, which has no listings.
        """
        try:
            found, page = self._page(prefix, temporary, None)
        except MissingObject:
            # Where there is no folder yet, there is no first page.
            return {}
        while page is not None:
            more, page = self._page(prefix, temporary, page)
            found |= more
        return dict(sorted(found.items()))

    def delete(self, keys: list[str]) -> None:
        """Remove objects; objects that do not exist are ignored."""
        self.require_writable()
        for key in keys:
            with contextlib.suppress(MissingObject):
                self._guarded(key, lambda path, limit: self.fs.rm_file(path, **limit))

    def check_writable(self) -> None:
        """Raises StoreError unless an object can be written, read back and removed."""
        key = _probe_key()
        try:
            self.write(key, b"vldd")
        except MissingObject:
            raise StoreError(f"{self.url}: this folder cannot be made: name another place") from None
        if self.read(key) != b"vldd":
            raise StoreError(f"{self.url}: a test object was changed when it was read back: use another store")
        self.delete([key])

    def check_permission(self) -> None:
        """The part of `check_writable` that writes nothing: raises StoreError if objects can only be read, or if this user may
        not write or make a local folder. Whether a bucket can be written is not asked."""
        self.require_writable()
        self._guarded(_probe_key(), lambda path, limit: self.backend.check_permission(path))

    def abort_uploads(self, prefix: str, before: datetime, abort: bool = True) -> list[str]:
        """Abort multipart uploads that a killed writer left unfinished. S3 keeps and bills their parts, but lists no object.

        Args:
            before: by the store's clock; uploads that were begun or continued later are left alone.
            abort: False: only find them, without aborting.

        Returns:
            Their keys. Only S3 has such uploads.
        """
        return self._guarded(prefix, lambda path, limit: self.backend.abort_uploads(path, before, abort))

    def _info(self, key: str) -> dict[str, Any]:
        return self._guarded(key, lambda path, limit: self.backend.info(path, limit))

    def _page(self, prefix: str, temporary: bool, page: str | None) -> Page:
        """A page of a listing. Each has a deadline of its own, because a listing of hundreds of pages takes longer than one."""
        return self._guarded(prefix, lambda path, limit: self.backend.find(path, temporary, page, limit))

    def _guarded(self, key: str, operation: Callable[[str, Limit], Out], size: int = 0) -> Out:
        """The result of `operation(path, limit)`, retried after transient faults; other faults become a StoreError.

        Args:
            size: bytes that the operation sends or receives, if known; they extend the deadline.
        """
        path = self.backend.path_of(_checked(key))
        started = time.monotonic()

        def attempt(seconds: float) -> Out:
            return operation(path, self.backend.limit(seconds))

        try:
            return self._retried(attempt, size)
        except FileNotFoundError as error:
            if says_no_bucket(error):
                raise StoreError(f"{self.url}: the bucket does not exist: create it, or correct the URL") from None
            raise MissingObject(f"{self.url_of(key)}: no such object") from None
        except StoreError:
            raise
        except Exception as error:
            raise store_error(error, self.url, key, time.monotonic() - started) from None

    def _retried(self, attempt: Callable[[float], Out], size: int) -> Out:
        """`retried`, and once more with a new token if the token has expired."""
        try:
            return retried(attempt, size)
        except OSError as error:
            if not token_expired(error):
                raise
            self.backend.renew()
            return retried(attempt, size)


def _checked(key: str) -> str:
    if key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")) or "\\" in key:
        raise StoreError(f"{key!r} is not a key: keys are relative, separated by '/', without empty parts, '.' or '..'")
    return key


def _probe_key() -> str:
    """A key for a test object, which no one else uses."""
    return f".probe-{uuid.uuid4().hex}"
