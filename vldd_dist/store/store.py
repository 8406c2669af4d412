"""A store: any fsspec URL under which an experiment keeps everything it produces.

A write replaces the object atomically, and the stored object is then compared with what was sent. `create` is the conditional
put on which commits rely: a hard link for local files, If-None-Match for S3, a lock for memory. Transient faults are retried
with jitter for `retry.DEADLINE_SECONDS`; a refusal (no permission, no bucket) is an error at once. Credentials come from the
environment, a profile or a role, and never appear in a message, pickle or object. http(s) and hf URLs can only be read.
"""

import builtins
import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import quote

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError
from vldd_dist.store.backends import s3, web
from vldd_dist.store.backends.file_systems import HUB, PART_ATTEMPTS, missing_library, open_file_system
from vldd_dist.store.backends.listing import NEVER, Listed, find_objects
from vldd_dist.store.backends.local_files import create_file, replace_file
from vldd_dist.store.backends.remote_writes import create_object, ensure_object, is_multipart, put_object
from vldd_dist.store.location import Location, parse_location
from vldd_dist.store.retry import (
    retried,
    says_exists,
    says_no_bucket,
    says_not_implemented,
    store_error,
    token_expired,
)

Out = TypeVar("Out")
# Further arguments of a file system's call: the seconds that it may take, if the file system supports such a limit.
Limit = dict[str, float]

_memory_lock = threading.Lock()


class MissingObject(StoreError):
    """The store answered that there is no such object. It is not raised if the store cannot be reached."""


class Store:
    """Objects under one URL, by keys such as `units/expert/ID/manifest.json` (relative, separated by '/').

    Args:
        url: a folder, or a file://, s3://, gs:// or memory:// URL without credentials; http(s):// and hf:// for reading only.
        storage_options: further arguments of the fsspec file system, for example an endpoint; they are never shown.

    Raises:
        StoreError: the URL is empty, has an unknown scheme, or contains credentials.
    """

    def __init__(self, url: Location, **storage_options: Any) -> None:
        self.scheme, self.root = parse_location(url)
        self.url = f"{self.scheme}://{self.root}"
        self.storage_options = storage_options

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        # A file system holds sockets and threads of this process; an unpickled store opens its own.
        return {key: value for key, value in self.__dict__.items() if key not in ("fs", "_fs_for_parts")}

    @cached_property
    def fs(self) -> AbstractFileSystem:
        """The fsspec file system. Its client makes one attempt at each request, because `_guarded` retries."""
        return self._open(attempts=1)

    @cached_property
    def _fs_for_parts(self) -> AbstractFileSystem:
        """The file system for multipart uploads, whose client retries each part."""
        return self._open(PART_ATTEMPTS)

    def _open(self, attempts: int) -> AbstractFileSystem:
        try:
            return open_file_system(self.scheme, self.storage_options, attempts)
        except ImportError as error:
            raise StoreError(f"{self.url}: {missing_library(self.scheme, error)}") from None

    @property
    def is_local(self) -> bool:
        """Whether objects can be read without a network."""
        return self.scheme in ("file", "memory")

    def require_writable(self) -> None:
        """Raises StoreError if stores with this scheme can only be read."""
        if self.scheme in web.SCHEMES:
            raise StoreError(f"{self.url}: {self.scheme}:// can only be read: write to a folder, file://, s3:// or gs://")
        if self.scheme == HUB:
            raise StoreError(f"{self.url}: hf:// can only be read: write elsewhere, then `vldd push` a distilled set there")

    def url_of(self, key: str) -> str:
        """The full URL of a key or a key prefix."""
        return f"{self.url}/{_checked(key)}"

    def read(self, key: str, at_most: int | None = None) -> bytes:
        """The whole object. Raises MissingObject if there is none.

        Args:
            at_most: the size that the object should have. Of a larger one on a web server, `at_most` + 1 bytes are read.
        """

        # The size is unknown, so the duration of the call is not limited; the client limits the wait for each byte.
        def read(path: str, limit: Limit) -> bytes:
            if at_most is not None and self.scheme in web.SCHEMES:
                return web.read(self.fs, path, at_most)
            return bytes(self.fs.cat_file(path))

        return self._guarded(key, read)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from byte `start`."""

        def read(path: str, limit: Limit) -> bytes:
            if self.scheme in web.SCHEMES:
                return web.read_range(self.fs, path, start, length)
            return bytes(self.fs.cat_file(path, start=start, end=start + length, **limit))

        return self._guarded(key, read, size=length)

    def write(self, key: str, data: bytes) -> None:
        """Create or replace an object. A concurrent reader sees the old or the new bytes, never a mixture."""
        self.require_writable()

        def put(path: str, limit: Limit) -> None:
            if self.scheme == "file":
                replace_file(path, data)
            elif self.scheme == "memory":
                self.fs.pipe_file(path, data)
            else:
                put_object(self.fs, self._sender(data), self.scheme, path, data, limit)

        if self.scheme in s3.SCHEMES and len(data) > s3.SMALL_BYTES:
            self._guarded(key, lambda path, limit: s3.await_answer(self.fs, path, limit))
        self._guarded(key, put, size=len(data))

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
                self._create_file(path, data, limit)
                return True
            except OSError as error:
                if not says_exists(error):
                    raise
                repeated = attempts > 1 or not self.is_local
                return repeated and self.fs.cat_file(path, **limit) == data

        def ensure(path: str, limit: Limit) -> None:
            # If it was removed in the meantime, there is nothing to compare.
            with contextlib.suppress(FileNotFoundError):
                ensure_object(self.fs, self._sender(data), self.scheme, path, data, limit)

        created = self._guarded(key, put, size=len(data))
        if created and not self.is_local:
            self._guarded(key, ensure, size=len(data))
        return created

    def creates_conditionally(self) -> bool:
        """Whether the server itself refuses to create an object that exists; determined by trying."""
        key = f".probe-{uuid.uuid4().hex}"

        def refused(path: str, limit: Limit) -> bool:
            try:
                for data in (b"one", b"another"):
                    self._create_file(path, data, limit, fall_back=False)
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

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        return self._guarded(key, lambda path, limit: bool(self.fs.exists(path, **limit)))

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
        key = f".probe-{uuid.uuid4().hex}"
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

    def list(self, prefix: str) -> "builtins.list[str]":
        """All keys under a prefix, recursively and sorted; empty if there are none."""
        return builtins.list(self.listing(prefix))

    def listing(self, prefix: str, temporary: bool = False) -> dict[str, Listed]:
        """The same as `list`, with each object's size and time.

        Args:
            temporary: whether to include files that local writers have not finished, or left behind when they were killed.

        Raises:
            StoreError: the store is a web server, which has no listings.
        """
        if self.scheme in web.SCHEMES:
            raise StoreError(f"{self.url}: a web server does not list objects: name the folder of one distilled set")

        def find(path: str, limit: Limit) -> dict[str, Listed]:
            root = self.fs._strip_protocol(f"{self.url}/") if self.scheme == "memory" else self.root
            return find_objects(self.fs, self.scheme, path, root, temporary)

        with contextlib.suppress(FileNotFoundError):
            return self._guarded(prefix, find, missing_is_error=False)
        return {}

    def delete(self, keys: "builtins.list[str]") -> None:
        """Remove objects; objects that do not exist are ignored."""
        self.require_writable()
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._guarded(key, lambda path, limit: self.fs.rm_file(path, **limit), missing_is_error=False)

    def check_writable(self) -> None:
        """Raises StoreError unless an object can be written, read back and removed."""
        key = f".probe-{uuid.uuid4().hex}"
        self.write(key, b"vldd")
        if self.read(key) != b"vldd":
            raise StoreError(f"{self.url}: a test object was changed when it was read back: use another store")
        self.delete([key])

    def abort_uploads(self, prefix: str, before: datetime, abort: bool = True) -> "builtins.list[str]":
        """Abort multipart uploads that a killed writer left unfinished. S3 keeps and bills their parts, but lists no object.

        Args:
            before: by the store's clock; uploads that were begun or continued later are left alone.
            abort: False: only find them, without aborting.

        Returns:
            Their keys. Only S3 has such uploads.
        """
        if self.scheme not in s3.SCHEMES:
            return []
        bucket = self.root.partition("/")[0]

        def find(path: str, limit: Limit) -> builtins.list[str]:
            # The slash keeps `units-old` out of the prefix `units`.
            unfinished = s3.unfinished_uploads(self.fs, bucket, f"{path.partition('/')[2]}/", before)
            for upload in unfinished if abort else ():
                self.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            return [f"{bucket}/{upload['Key']}".removeprefix(f"{self.root}/") for upload in unfinished]

        return self._guarded(prefix, find)

    def _info(self, key: str) -> dict[str, Any]:
        def info(path: str, limit: Limit) -> dict[str, Any]:
            return web.info(self.fs, path, limit) if self.scheme in web.SCHEMES else dict(self.fs.info(path, **limit))

        return self._guarded(key, info)

    def _guarded(self, key: str, operation: Callable[[str, Limit], Out], missing_is_error: bool = True, size: int = 0) -> Out:
        """The result of `operation(path, limit)`, retried after transient faults; other faults become a StoreError.

        Args:
            missing_is_error: False: a FileNotFoundError is not turned into MissingObject.
            size: bytes that the operation sends or receives, if known; they extend the deadline.
        """
        path = f"{self.url}/{quote(_checked(key))}" if self.scheme in web.SCHEMES else f"{self.root}/{_checked(key)}"
        started = time.monotonic()

        def attempt(seconds: float) -> Out:
            return operation(path, {"timeout": seconds} if isinstance(self.fs, AsyncFileSystem) else {})

        try:
            try:
                return retried(attempt, size)
            except OSError as error:
                if not token_expired(error):
                    raise
                # A new file system reads the profile or role again, which may hold a fresh token by now.
                for opened in ("fs", "_fs_for_parts"):
                    self.__dict__.pop(opened, None)
                return retried(attempt, size)
        except FileNotFoundError as error:
            if says_no_bucket(error):
                raise StoreError(f"{self.url}: the bucket does not exist: create it, or correct the URL") from None
            if not missing_is_error:
                raise
            raise MissingObject(f"{self.url_of(key)}: no such object") from None
        except StoreError:
            raise
        except Exception as error:
            raise store_error(error, self.url, key, time.monotonic() - started) from None

    def _sender(self, data: bytes) -> AbstractFileSystem:
        return self._fs_for_parts if is_multipart(self.scheme, len(data)) else self.fs

    def _create_file(self, path: str, data: bytes, limit: Limit, fall_back: bool = True) -> None:
        if self.scheme == "file":
            create_file(path, data, fall_back)
        elif self.scheme == "memory":
            with _memory_lock:
                if self.fs.exists(path):
                    raise FileExistsError(path)
                self.fs.pipe_file(path, data)
        else:
            create_object(self.fs, path, data, limit, fall_back)


def _checked(key: str) -> str:
    if key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")) or "\\" in key:
        raise StoreError(f"{key!r} is not a key: keys are relative, separated by '/', without empty parts, '.' or '..'")
    return key
