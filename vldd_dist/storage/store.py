"""A store: any fsspec URL under which one experiment keeps all it makes.

Writes replace atomically and are checked against what the store then holds; `create` is the conditional put that commit
marks rely on: a hard link for local files, If-None-Match for S3, a lock for memory. Transient faults are retried with
jitter within `faults.RETRY_SECONDS`; a refusal (permission, no bucket) is one sentence at once. Credentials come from
the environment, a profile or a role, and appear in no message, pickle or object.
"""

import base64
import builtins
import contextlib
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import md5
from typing import Any, TypeVar

import fsspec
from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError
from vldd_dist.storage.faults import (
    NotAsWritten,
    retried,
    says_exists,
    says_no_bucket,
    says_not_implemented,
    sentence,
    token_expired,
)
from vldd_dist.storage.files import TEMPORARY, create_file, replace_file

# Larger objects are uploaded in parts of this size, several at once (S3's smallest part is 5 MiB).
PART_BYTES = 16 << 20
# Each write is compared with what the server then holds: signing and summing the bytes on their way as well, which https
# makes needless, takes as long again as that.
S3_CONFIG = {"request_checksum_calculation": "when_required", "s3": {"payload_signing_enabled": False}}

Out = TypeVar("Out")

_memory_lock = threading.Lock()


class MissingObject(StoreError):
    """Nothing lies under the key: an answer of the store, unlike a failure to reach it."""


class Store:
    """Objects under one URL, by keys such as `units/expert/ID/manifest.json` (relative, '/'-separated).

    Args:
        url: a folder, file://, s3://, gs:// or memory:// URL, without credentials.
        storage_options: further arguments of the fsspec file system (an endpoint); redacted wherever shown.

    Raises:
        StoreError: the URL's scheme is unknown or the URL carries credentials.
    """

    def __init__(self, url: str, **storage_options: Any) -> None:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise StoreError("the store's URL carries credentials: give them by environment, profile or role instead")
        self.scheme = url.partition("://")[0] if "://" in url else "file"
        if self.scheme not in fsspec.available_protocols():
            raise StoreError(f"{url}: unknown scheme {self.scheme!r}; use a folder, file://, s3:// or gs://")
        path = url.partition("://")[2] if "://" in url else url
        self.root = os.path.abspath(path) if self.scheme == "file" else path.rstrip("/")
        self.url = f"{self.scheme}://{self.root}"
        self.storage_options = storage_options

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        # A file system holds sockets and threads of this process; the receiver opens its own.
        return {key: value for key, value in self.__dict__.items() if key != "fs"}

    @cached_property
    def fs(self) -> AbstractFileSystem:
        options = dict(self.storage_options)
        if self.scheme != "memory":
            # Listings must show what other processes wrote a moment ago.
            options |= {"use_listings_cache": False, "skip_instance_cache": True}
        if self.scheme in ("s3", "s3a"):
            options["config_kwargs"] = S3_CONFIG | options.get("config_kwargs", {})
        try:
            return fsspec.filesystem(self.scheme, **options)
        except ImportError as error:
            raise StoreError(f"{self.url}: {error}; install the package's extra for it, e.g. vldd_dist[s3]") from None

    @property
    def is_local(self) -> bool:
        """Whether reading costs no network."""
        return self.scheme in ("file", "memory")

    def url_of(self, key: str) -> str:
        """The full URL of a key, or of a prefix."""
        return f"{self.url}/{_checked(key)}"

    def read(self, key: str) -> bytes:
        """The whole object. Raises MissingObject when it is not there."""
        return self._guarded(key, lambda path: self.fs.cat_file(path))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`."""
        return self._guarded(key, lambda path: self.fs.cat_file(path, start=start, end=start + length))

    def write(self, key: str, data: bytes) -> None:
        """Create or replace the object; a reader sees the old bytes or the new, never a mixture."""
        self._guarded(key, lambda path: self._write_file(path, data) if self.scheme == "file" else self._put_object(path, data))

    def create(self, key: str, data: bytes) -> bool:
        """Create the object unless it exists: True for the one caller who made it.

        When the answer to a successful put is lost, the put is repeated (here, or unseen inside the client library of
        a remote store) and meets its own object: the bytes tell. On a server without conditional puts an existing object
        is respected, but two callers at the same instant may both be told that they made it; the later bytes stand.
        """
        attempts = 0

        def put(path: str) -> bool:
            nonlocal attempts
            attempts += 1
            try:
                self._create_file(path, data)
                return True
            except OSError as error:
                if not says_exists(error):
                    raise
                repeated = attempts > 1 or not self.is_local
                return repeated and self.fs.cat_file(path) == data

        return self._guarded(key, put)

    def creates_conditionally(self) -> bool:
        """Whether `create` refuses an existing object by the server's own rule, found out by trying."""
        key = f".probe-{uuid.uuid4().hex}"

        def refused(path: str) -> bool:
            try:
                self._create_file(path, b"another", fall_back=False)
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
        return self._guarded(key, lambda path: bool(self.fs.exists(path)))

    def size(self, key: str) -> int:
        return int(self._guarded(key, lambda path: self.fs.info(path)["size"]))

    def modified(self, key: str) -> datetime:
        """When the object was written, with time zone."""
        moment = self._guarded(key, lambda path: self.fs.modified(path))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def list(self, prefix: str, temporary: bool = False) -> "builtins.list[str]":
        """All keys under a prefix, recursively, sorted; an absent prefix has none.

        Args:
            temporary: also the files that local writers have not finished, or left when they were killed.
        """

        def find(path: str) -> builtins.list[str]:
            root = self.fs._strip_protocol(f"{self.url}/") if self.scheme == "memory" else self.root
            keys = (str(found).removeprefix(root.rstrip("/") + "/") for found in self.fs.find(path))
            return sorted(key for key in keys if temporary or not key.rpartition("/")[2].startswith(TEMPORARY))

        with contextlib.suppress(FileNotFoundError):
            return self._guarded(prefix, find, missing_is_error=False)
        return []

    def delete(self, keys: "builtins.list[str]") -> None:
        """Remove objects; one that is gone already is no error."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._guarded(key, lambda path: self.fs.rm_file(path), missing_is_error=False)

    def check_writable(self) -> None:
        """Raises StoreError unless an object can be written, read back and removed."""
        key = f".probe-{uuid.uuid4().hex}"
        self.write(key, b"vldd")
        if self.read(key) != b"vldd":
            raise StoreError(f"{self.url}: a probe object was read back changed: this store cannot be trusted")
        self.delete([key])

    def abort_uploads(self, prefix: str, older_than: timedelta, abort: bool = True) -> "builtins.list[str]":
        """Multipart uploads that a killed writer began and never ended: S3 keeps (and bills) their parts, unseen.

        Returns:
            Their keys. Stores other than S3 have none.
        """
        if self.scheme not in ("s3", "s3a"):
            return []
        before = datetime.now(UTC) - older_than
        bucket = self.root.partition("/")[0]

        def find(path: str) -> builtins.list[str]:
            inside = path.partition("/")[2]
            uploads = [upload for upload in self.fs.list_multipart_uploads(bucket) or [] if upload["Key"].startswith(inside)]
            dead = [upload for upload in uploads if upload["Initiated"] < before]
            for upload in dead if abort else ():
                self.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            return [f"{bucket}/{upload['Key']}".removeprefix(f"{self.root}/") for upload in dead]

        return self._guarded(prefix, find)

    def _guarded(self, key: str, operation: Callable[[str], Out], missing_is_error: bool = True) -> Out:
        path = f"{self.root}/{_checked(key)}"
        try:
            try:
                return retried(lambda: operation(path))
            except OSError as error:
                if not token_expired(error):
                    raise
                # A new file system reads the profile or role again, which may hold a fresh token by now.
                self.__dict__.pop("fs", None)
                return retried(lambda: operation(path))
        except FileNotFoundError as error:
            if says_no_bucket(error):
                raise StoreError(f"{self.url}: the bucket does not exist: make it, or correct the URL") from None
            if not missing_is_error:
                raise
            raise MissingObject(f"{self.url_of(key)}: no such object") from None
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(sentence(error, self.url, key)) from None

    def _put_object(self, path: str, data: bytes) -> None:
        """Send, then compare what the store holds: by its own checksum where that is one, else by reading back."""
        if self.scheme == "memory":
            self.fs.pipe_file(path, data)
            return
        with ThreadPoolExecutor(1) as beside:
            expected = beside.submit(_checksums, data)
            self.fs.pipe_file(path, data, **({"chunksize": PART_BYTES} if self.scheme == "s3" else {}))
        held = self.fs.info(path)
        # S3's ETag is no MD5 where the store encrypts with keys of its own; Google has a field for it.
        named = {str(held.get("ETag", "")).strip('"'), held.get("md5Hash")}
        if held["size"] != len(data) or not (named & expected.result() or self.fs.cat_file(path) == data):
            raise NotAsWritten(f"{path} was sent with {len(data)} bytes, and other bytes lie there")

    def _write_file(self, path: str, data: bytes) -> None:
        replace_file(path, data)

    def _create_file(self, path: str, data: bytes, fall_back: bool = True) -> None:
        if self.scheme == "file":
            create_file(path, data)
        elif self.scheme == "memory":
            with _memory_lock:
                if self.fs.exists(path):
                    raise FileExistsError(path)
                self.fs.pipe_file(path, data)
        else:
            try:
                self.fs.pipe_file(path, data, mode="create")
            except (OSError, NotImplementedError) as error:
                if not (fall_back and says_not_implemented(error)):
                    raise
                if self.fs.exists(path):
                    raise FileExistsError(path) from None
                self.fs.pipe_file(path, data)


def _checked(key: str) -> str:
    if key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")) or "\\" in key:
        raise StoreError(f"{key!r} is no key: relative, '/'-separated, without empty parts, '.' or '..'")
    return key


def _checksums(data: bytes) -> set[str]:
    """How stores name these bytes: the MD5, in hex or base64, or that of the parts' MD5s after a multipart upload."""
    view = memoryview(data)
    if len(data) < 2 * PART_BYTES:
        whole = md5(view, usedforsecurity=False)
        return {whole.hexdigest(), base64.b64encode(whole.digest()).decode()}
    starts = range(0, len(data), PART_BYTES)
    parts = b"".join(md5(view[start : start + PART_BYTES], usedforsecurity=False).digest() for start in starts)
    return {f"{md5(parts, usedforsecurity=False).hexdigest()}-{len(starts)}"}
