"""A store: any fsspec URL under which one experiment keeps all it makes.

Writes replace atomically; `create` is the conditional put that commit marks rely on: a hard link for local files,
If-None-Match for S3, a lock for memory. Transient faults are retried with jitter within `RETRY_SECONDS`; a refusal
(permission, no bucket) is one sentence at once. Credentials come from the environment, a profile or a role, and
appear in no message, pickle or object.
"""

import builtins
import contextlib
import errno
import os
import threading
import uuid
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from vldd_dist.errors import StoreError

RETRY_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 8.0

# s3fs gives a 500 InternalError EREMOTEIO (absent on macOS, where it falls back to EIO itself).
TRANSIENT_ERRNOS = {errno.EIO, errno.EBUSY, errno.ECONNRESET, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)}
# Base classes of botocore's, aiohttp's and requests' errors, by name: none of these libraries need be installed.
TRANSIENT_NAMES = (
    "Timeout",
    "ConnectionError",
    "ConnectionClosed",
    "Disconnected",
    "IncompleteRead",
    "ClientPayload",
    "HTTPClientError",
)

_memory_lock = threading.Lock()


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: time-outs, cut connections, 5xx and throttling, but no refusal."""
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError | NotADirectoryError | IsADirectoryError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    if str(getattr(error, "code", "")) in ("408", "429", "500", "502", "503", "504"):  # gcsfs's HttpError
        return True
    return any(name in kind.__name__ for kind in type(error).__mro__ for name in TRANSIENT_NAMES)


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
        try:
            return fsspec.filesystem(self.scheme, **options)
        except ImportError as error:
            raise StoreError(f"{self.url}: {error}; install the package's extra for it, e.g. vldd_dist[s3]") from None

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
        self._guarded(
            key, lambda path: self._write_file(path, data) if self.scheme == "file" else self.fs.pipe_file(path, data)
        )

    def create(self, key: str, data: bytes) -> bool:
        """Create the object unless it exists: True for the one caller who made it.

        When the answer to a successful put is lost, the put is repeated (here, or unseen inside the client library of
        a remote store) and meets its own object: the bytes tell.
        """
        attempts = 0

        def put(path: str) -> bool:
            nonlocal attempts
            attempts += 1
            try:
                self._create_file(path, data)
                return True
            except OSError as error:
                if not _says_exists(error):
                    raise
                repeated = attempts > 1 or self.scheme not in ("file", "memory")
                return repeated and self.fs.cat_file(path) == data

        return self._guarded(key, put)

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
            return sorted(key for key in keys if temporary or not key.rpartition("/")[2].startswith(".tmp-"))

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

    def _guarded(self, key: str, operation: Any, missing_is_error: bool = True) -> Any:
        path = f"{self.root}/{_checked(key)}"
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_delay(RETRY_SECONDS),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_WAIT_SECONDS),
            reraise=True,
        )
        try:
            try:
                return retrying(operation, path)
            except OSError as error:
                if not _token_expired(error):
                    raise
                # A new file system reads the profile or role again, which may hold a fresh token by now.
                self.__dict__.pop("fs", None)
                return retrying(operation, path)
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error).lower():
                raise StoreError(f"{self.url}: the bucket does not exist: make it, or correct the URL") from None
            if not missing_is_error:
                raise
            raise MissingObject(f"{self.url_of(key)}: no such object") from None
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(self._sentence(key, error)) from None

    def _sentence(self, key: str, error: Exception) -> str:
        if _token_expired(error):
            return f"{self.url}: the credentials have expired or are refused: renew them"
        if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):  # gcsfs raises a bare OSError
            return f"{self.url}: permission denied at {key}: give this user or role read and write access"
        if isinstance(error, NotADirectoryError | IsADirectoryError):
            return f"{self.url_of(key)}: a file stands where a folder should, or the reverse: name another place"
        if "Credential" in type(error).__name__:
            return f"{self.url}: no usable credentials: give them by environment, profile or role"
        # botocore and aiohttp raise outside OSError; their texts name no secret, yet only the type is sure.
        text = f": {' '.join(str(error).split())}" if isinstance(error, OSError | ValueError) else ""
        if is_transient(error):
            return (
                f"{self.url_of(key)}: given up after {RETRY_SECONDS:g} s of retries ({type(error).__name__}{text}): "
                "check the disk, or the network and the endpoint, and start again"
            )
        return f"{self.url_of(key)}: {type(error).__name__}{text}; see `vldd doctor`"

    def _write_file(self, path: str, data: bytes) -> None:
        temporary = self._temporary_file(path, data)
        os.replace(temporary, path)

    def _create_file(self, path: str, data: bytes) -> None:
        if self.scheme == "file":
            temporary = self._temporary_file(path, data)
            try:
                # A link is made by one caller only, and shows the whole file at once.
                os.link(temporary, path)
            finally:
                os.unlink(temporary)
        elif self.scheme == "memory":
            with _memory_lock:
                if self.fs.exists(path):
                    raise FileExistsError(path)
                self.fs.pipe_file(path, data)
        else:
            self.fs.pipe_file(path, data, mode="create")

    def _temporary_file(self, path: str, data: bytes) -> str:
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError:
            # Not to be taken for `create` meeting its object.
            raise NotADirectoryError(folder) from None
        temporary = os.path.join(folder, f".tmp-{uuid.uuid4().hex}")
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


def _checked(key: str) -> str:
    if key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")) or "\\" in key:
        raise StoreError(f"{key!r} is no key: relative, '/'-separated, without empty parts, '.' or '..'")
    return key


def _token_expired(error: Exception) -> bool:
    # The answer to a HEAD has no body that could name the error: there an expired token is a bare 400.
    return "(ExpiredToken)" in str(error.__cause__) or "(400) when calling the HeadObject" in str(error.__cause__)


def _says_exists(error: BaseException) -> bool:
    if isinstance(error, FileExistsError):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if "PreconditionFailed" in str(cause) or "PreconditionFailed" in type(cause).__name__:
            return True
        cause = cause.__cause__
    return False
