"""A store: any fsspec URL under which one experiment keeps all it makes.

Writes replace atomically and are checked against what the store then holds; `create` is the conditional put that commit
marks rely on: a hard link for local files, If-None-Match for S3, a lock for memory. Transient faults are retried with
jitter within `faults.DEADLINE_SECONDS`; a refusal (permission, no bucket) is one sentence at once. Credentials come from
the environment, a profile or a role, and appear in no message, pickle or object. http(s) is for reading what others published.
"""

import base64
import builtins
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import md5
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError
from vldd_dist.store import s3, web
from vldd_dist.store.file_systems import PART_ATTEMPTS, open_file_system
from vldd_dist.store.local_files import TEMPORARY, create_file, find_files, replace_file
from vldd_dist.store.retry import (
    NotAsWritten,
    retried,
    says_exists,
    says_no_bucket,
    says_not_implemented,
    sentence,
    token_expired,
)

Out = TypeVar("Out")
# Of calls of a file system: how long one may take, where it knows such a thing.
Limit = dict[str, float]

NEVER = datetime.max.replace(tzinfo=UTC)

_memory_lock = threading.Lock()


class MissingObject(StoreError):
    """Nothing lies under the key: an answer of the store, unlike a failure to reach it."""


class Listed(NamedTuple):
    """An object's size in bytes, and when it was written by the store's clock, with time zone."""

    size: int
    modified: datetime

    @classmethod
    def of(cls, info: dict[str, Any]) -> "Listed":
        """From what a file system tells; an object of which it tells no time is younger than any age."""
        names = ("LastModified", "last_modified", "mtime", "updated", "created")
        moment = next((info[name] for name in names if info.get(name) is not None), NEVER)
        if isinstance(moment, int | float):
            moment = datetime.fromtimestamp(moment, UTC)
        elif isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        return cls(int(info["size"]), moment if moment.tzinfo else moment.replace(tzinfo=UTC))


class Store:
    """Objects under one URL, by keys such as `units/expert/ID/manifest.json` (relative, '/'-separated).

    Args:
        url: a folder, file://, s3://, gs:// or memory:// URL, without credentials; http(s):// to read from.
        storage_options: further arguments of the fsspec file system (an endpoint); redacted wherever shown.

    Raises:
        StoreError: the URL is empty, its scheme is unknown, or it carries credentials.
    """

    def __init__(self, url: str, **storage_options: Any) -> None:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise StoreError("the store's URL carries credentials: give them by environment, profile or role instead")
        self.scheme = url.partition("://")[0] if "://" in url else "file"
        if self.scheme not in fsspec.available_protocols():
            raise StoreError(f"{url}: unknown scheme {self.scheme!r}; use a folder, file://, s3:// or gs://")
        path = url.partition("://")[2] if "://" in url else url
        if not path.strip("/ "):
            # Not the folder that the command happens to run in.
            raise StoreError(f"{url!r} names no place: give a folder, or a URL with a bucket or host and more, for the store")
        if self.scheme in web.SCHEMES and not set(path).isdisjoint("?#"):
            raise StoreError(f"{url}: the objects lie below the URL, which can have no query or fragment: leave it out")
        self.root = os.path.abspath(path) if self.scheme == "file" else path.rstrip("/")
        self.url = f"{self.scheme}://{self.root}"
        self.storage_options = storage_options

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        # A file system holds sockets and threads of this process; the receiver opens its own.
        return {key: value for key, value in self.__dict__.items() if key not in ("fs", "_fs_for_parts")}

    @cached_property
    def fs(self) -> AbstractFileSystem:
        return self._open(attempts=1)

    @cached_property
    def _fs_for_parts(self) -> AbstractFileSystem:
        return self._open(PART_ATTEMPTS)

    def _open(self, attempts: int) -> AbstractFileSystem:
        try:
            return open_file_system(self.scheme, self.storage_options, attempts)
        except ImportError as error:
            raise StoreError(f"{self.url}: {error}; install the package's extra for it, e.g. vldd_dist[s3]") from None

    @property
    def is_local(self) -> bool:
        """Whether reading costs no network."""
        return self.scheme in ("file", "memory")

    def require_writable(self) -> None:
        """Raises StoreError where nothing can ever be written."""
        if self.scheme in web.SCHEMES:
            raise StoreError(f"{self.url}: {self.scheme}:// is only read from: write to a folder, file://, s3:// or gs://")

    def url_of(self, key: str) -> str:
        """The full URL of a key, or of a prefix."""
        return f"{self.url}/{_checked(key)}"

    def read(self, key: str) -> bytes:
        """The whole object. Raises MissingObject when it is not there."""
        # Of unknown size: the client gives up each request that gets no answer, and no other limit can be set.
        return self._guarded(key, lambda path, limit: self.fs.cat_file(path))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`."""

        def read(path: str, limit: Limit) -> bytes:
            if self.scheme in web.SCHEMES:
                return web.read_range(self.fs, path, start, length)
            return bytes(self.fs.cat_file(path, start=start, end=start + length, **limit))

        return self._guarded(key, read, size=length)

    def write(self, key: str, data: bytes) -> None:
        """Create or replace the object; a reader sees the old bytes or the new, never a mixture."""
        self.require_writable()

        def put(path: str, limit: Limit) -> None:
            if self.scheme == "file":
                self._write_file(path, data)
            else:
                self._put_object(path, data, limit)

        if self.scheme in s3.SCHEMES and len(data) > s3.SMALL_BYTES:
            self._guarded(key, lambda path, limit: s3.await_answer(self.fs, path, limit))
        self._guarded(key, put, size=len(data))

    def create(self, key: str, data: bytes) -> bool:
        """Create the object unless it exists: True for the one caller who made it.

        When the answer to a successful put is lost, the put is repeated (here, or unseen inside the client library of
        a remote store) and meets its own object: the bytes tell. On a server without conditional puts an existing object
        is respected, but two callers at the same instant may both be told that they made it; the later bytes stand.
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

        return self._guarded(key, put, size=len(data))

    def creates_conditionally(self) -> bool:
        """Whether `create` refuses an existing object by the server's own rule, found out by trying."""
        key = f".probe-{uuid.uuid4().hex}"

        def refused(path: str, limit: Limit) -> bool:
            try:
                self._create_file(path, b"another", limit, fall_back=False)
            except (OSError, NotImplementedError) as error:
                if says_exists(error):
                    return True
                if not says_not_implemented(error):
                    raise
            return False

        self.write(key, b"one")
        try:
            return self._guarded(key, refused)
        finally:
            self.delete([key])

    def exists(self, key: str) -> bool:
        return self._guarded(key, lambda path, limit: bool(self.fs.exists(path, **limit)))

    def size(self, key: str) -> int:
        size = self._info(key)["size"]
        if size is None:
            raise StoreError(f"{self.url_of(key)}: the server does not say how large it is: serve it by another")
        return int(size)

    def modified(self, key: str) -> datetime:
        """When the object was written by the store's clock, with time zone."""
        return Listed.of(self._info(key)).modified

    def now(self) -> datetime:
        """The time by the store's clock, with time zone: that of an object written now, up to a second later."""
        key = f".probe-{uuid.uuid4().hex}"
        self.write(key, b"clock")
        try:
            moment = self.modified(key)
        finally:
            self.delete([key])
        if moment == NEVER:
            raise StoreError(f"{self.url}: this kind of store does not say when an object was written: ages are not known here")
        # S3 leaves out the parts of a second here, but not in listings.
        return moment if moment.microsecond else moment + timedelta(seconds=1)

    def list(self, prefix: str, temporary: bool = False) -> "builtins.list[str]":
        """All keys under a prefix, recursively, sorted; an absent prefix has none.

        Args:
            temporary: also the files that local writers have not finished, or left when they were killed.
        """
        return builtins.list(self.listing(prefix, temporary))

    def listing(self, prefix: str, temporary: bool = False) -> dict[str, Listed]:
        """As `list`, each key with the object's size and time.

        Raises:
            StoreError: a web server, which lists nothing.
        """
        if self.scheme in web.SCHEMES:
            raise StoreError(f"{self.url}: a web server lists no objects: name the folder of one distilled set")

        def find(path: str, limit: Limit) -> dict[str, Listed]:
            if self.scheme == "file":
                statuses = dict(find_files(path))
                found = {name: Listed.of({"size": at.st_size, "mtime": at.st_mtime}) for name, at in statuses.items()}
            else:
                found = {str(name): Listed.of(info) for name, info in self.fs.find(path, detail=True).items()}
            root = self.fs._strip_protocol(f"{self.url}/") if self.scheme == "memory" else self.root
            keys = {name.removeprefix(root.rstrip("/") + "/"): listed for name, listed in sorted(found.items())}
            return {key: keys[key] for key in keys if temporary or not key.rpartition("/")[2].startswith(TEMPORARY)}

        with contextlib.suppress(FileNotFoundError):
            return self._guarded(prefix, find, missing_is_error=False)
        return {}

    def delete(self, keys: "builtins.list[str]") -> None:
        """Remove objects; one that is gone already is no error."""
        self.require_writable()
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._guarded(key, lambda path, limit: self.fs.rm_file(path, **limit), missing_is_error=False)

    def check_writable(self) -> None:
        """Raises StoreError unless an object can be written, read back and removed."""
        key = f".probe-{uuid.uuid4().hex}"
        self.write(key, b"vldd")
        if self.read(key) != b"vldd":
            raise StoreError(f"{self.url}: a probe object was read back changed: this store cannot be trusted")
        self.delete([key])

    def abort_uploads(self, prefix: str, before: datetime, abort: bool = True) -> "builtins.list[str]":
        """Multipart uploads that a killed writer began and never ended: S3 keeps (and bills) their parts, unseen.

        Args:
            before: by the store's clock; what was begun, or went on, later is left alone.

        Returns:
            Their keys. Stores other than S3 have none.
        """
        if self.scheme not in s3.SCHEMES:
            return []
        bucket = self.root.partition("/")[0]

        def find(path: str, limit: Limit) -> builtins.list[str]:
            # With a slash: `units` is no part of `units-old`.
            dead = s3.unended_uploads(self.fs, bucket, f"{path.partition('/')[2]}/", before)
            for upload in dead if abort else ():
                self.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            return [f"{bucket}/{upload['Key']}".removeprefix(f"{self.root}/") for upload in dead]

        return self._guarded(prefix, find)

    def _info(self, key: str) -> dict[str, Any]:
        return self._guarded(key, lambda path, limit: dict(self.fs.info(path, **limit)))

    def _guarded(self, key: str, operation: Callable[[str, Limit], Out], missing_is_error: bool = True, size: int = 0) -> Out:
        """The operation's result, of the path and for how long a call may take; `size`: bytes that it moves, if known."""
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
                raise StoreError(f"{self.url}: the bucket does not exist: make it, or correct the URL") from None
            if not missing_is_error:
                raise
            raise MissingObject(f"{self.url_of(key)}: no such object") from None
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(sentence(error, self.url, key, time.monotonic() - started)) from None

    def _put_object(self, path: str, data: bytes, limit: Limit) -> None:
        """Send, then compare what the store holds: by its own checksum where that is one, else by reading back."""
        if self.scheme == "memory":
            self.fs.pipe_file(path, data)
            return
        in_parts = self.scheme in s3.SCHEMES and len(data) >= 2 * s3.PART_BYTES
        fs = self._fs_for_parts if in_parts else self.fs
        with ThreadPoolExecutor(1) as beside:
            expected = beside.submit(_checksums, data)
            fs.pipe_file(path, data, **({"chunksize": s3.PART_BYTES} if self.scheme in s3.SCHEMES else {}), **limit)
        held = self.fs.info(path, **limit)
        # S3's ETag is no MD5 where the store encrypts with keys of its own; Google has a field for it.
        named = {str(held.get("ETag", "")).strip('"'), held.get("md5Hash")}
        if held["size"] != len(data) or not (named & expected.result() or self.fs.cat_file(path, **limit) == data):
            raise NotAsWritten(f"{path} was sent with {len(data)} bytes, and other bytes lie there")

    def _write_file(self, path: str, data: bytes) -> None:
        replace_file(path, data)

    def _create_file(self, path: str, data: bytes, limit: Limit, fall_back: bool = True) -> None:
        if self.scheme == "file":
            create_file(path, data)
        elif self.scheme == "memory":
            with _memory_lock:
                if self.fs.exists(path):
                    raise FileExistsError(path)
                self.fs.pipe_file(path, data)
        else:
            try:
                self.fs.pipe_file(path, data, mode="create", **limit)
            except (OSError, NotImplementedError) as error:
                if not (fall_back and says_not_implemented(error)):
                    raise
                if self.fs.exists(path, **limit):
                    raise FileExistsError(path) from None
                self.fs.pipe_file(path, data, **limit)


def _checked(key: str) -> str:
    if key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")) or "\\" in key:
        raise StoreError(f"{key!r} is no key: relative, '/'-separated, without empty parts, '.' or '..'")
    return key


def _checksums(data: bytes) -> set[str]:
    """How stores name these bytes: the MD5, in hex or base64, or that of the parts' MD5s after a multipart upload."""
    view = memoryview(data)
    if len(data) < 2 * s3.PART_BYTES:
        whole = md5(view, usedforsecurity=False)
        return {whole.hexdigest(), base64.b64encode(whole.digest()).decode()}
    starts = range(0, len(data), s3.PART_BYTES)
    parts = b"".join(md5(view[start : start + s3.PART_BYTES], usedforsecurity=False).digest() for start in starts)
    return {f"{md5(parts, usedforsecurity=False).hexdigest()}-{len(starts)}"}
