"""Opening local and remote files. Remote ones are read ahead in ranges. A range that fails is requested again, so that a
broken connection costs one range and not the whole file.
"""

import gzip
import http
import io
from typing import Any

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from vldd_dist.in_order import in_order
from vldd_dist.store.backends import web
from vldd_dist.store.backends.file_systems import open_file_system
from vldd_dist.store.retry import retried
from vldd_dist.store.user_files.regular_files import open_regular

RANGE_BYTES = 4 << 20
RANGES_AHEAD = 2
REMOTE_SCHEMES = ("s3", "gs", "gcs", "abfs", "az", "hf")


def open_url(url: str, start: int = 0) -> io.BufferedIOBase:
    """A stream of the file's bytes from byte `start` on, to be read sequentially. If retries do not help, it raises the file
    system's exception."""
    filesystem, path = file_system(url)
    if _is_local(filesystem):
        local = open_regular(path)
        local.seek(start)
        return local
    size = file_info(filesystem, path).get("size")
    if size is not None and ((start == 0 and size <= RANGE_BYTES) or not _ignores_ranges(filesystem, path, int(size))):
        return io.BufferedReader(ResumingStream(filesystem, path, int(size), start), RANGE_BYTES)
    # A web server's file is then a stream, which cannot be repositioned.
    is_web = "http" in _protocols(filesystem)
    body = filesystem.open(path, "rb", **({"block_size": 0} if is_web else {}))
    stream: io.BufferedIOBase = io.BufferedReader(_Body(body), RANGE_BYTES)
    if is_web and body.r.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip"):
        # The client does not ask for it, but an object may be stored so.
        stream = _Decompressed(stream)
    for first in range(0, start, RANGE_BYTES):
        stream.read(min(RANGE_BYTES, start - first))
    return stream


def open_seekable(url: str) -> Any:
    """The file, to be read at any position. If retries do not help, it raises the file system's exception; and OSError for a
    server that does not send parts of a file."""
    filesystem, path = file_system(url)
    if _is_local(filesystem):
        return open_regular(path)
    size = file_info(filesystem, path).get("size")
    if size is None or _ignores_ranges(filesystem, path, int(size)):
        raise OSError("the server does not send parts of files: download it")
    return _RemoteFile(filesystem, path, block_size=RANGE_BYTES, size=int(size))


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """A fresh file system, without cached credentials or listings, and the URL's path in it."""
    scheme = url.partition("://")[0]
    if scheme not in (*REMOTE_SCHEMES, *web.SCHEMES):
        filesystem, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        return filesystem, path
    filesystem = open_file_system(scheme, attempts=1)
    return filesystem, filesystem._strip_protocol(url)


def local_path(location: str) -> str | None:
    """The local path, also of a file:// URL; None for any other URL."""
    if location.startswith("file://"):
        return location.removeprefix("file://")
    return None if "://" in location else location


def file_info(filesystem: AbstractFileSystem, path: str) -> dict[str, Any]:
    """What the file system reports of a file; `size` is its size in bytes, or None. If retries do not help, it raises the file
    system's exception."""
    if "http" in _protocols(filesystem):
        return retried(lambda seconds: web.info(filesystem, path, {}))
    return retried(lambda seconds: dict(filesystem.info(path)))


def _is_local(filesystem: AbstractFileSystem) -> bool:
    return "file" in _protocols(filesystem)


def _ignores_ranges(filesystem: AbstractFileSystem, path: str, size: int) -> bool:
    """Whether a web server sends the whole file whatever range is asked for, as `python -m http.server` does."""
    if size == 0 or "http" not in _protocols(filesystem):
        return False

    def status(seconds: float) -> int:
        # Not `cat_file`, which would read the whole file into memory. The headers replace those of the file system.
        headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
        with filesystem.open(path, "rb", block_size=0, size=size, headers=headers) as answer:
            return int(answer.r.status)

    return retried(status) != http.HTTPStatus.PARTIAL_CONTENT


def _protocols(filesystem: AbstractFileSystem) -> tuple[str, ...]:
    return (filesystem.protocol,) if isinstance(filesystem.protocol, str) else tuple(filesystem.protocol)


class ResumingStream(io.RawIOBase):
    """A remote object of `size` bytes, read sequentially from byte `start` on."""

    def __init__(self, filesystem: AbstractFileSystem, path: str, size: int, start: int) -> None:
        self._filesystem, self._path = filesystem, path
        ranges = ((first, min(first + RANGE_BYTES, size)) for first in range(start, size, RANGE_BYTES))
        self._ranges = in_order(self._range, ranges, threads=RANGES_AHEAD, ahead=RANGES_AHEAD)
        self._current = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._current:
            self._current = memoryview(next(self._ranges, b""))
        count = min(len(buffer), len(self._current))
        buffer[:count] = self._current[:count]
        self._current = self._current[count:]
        return count

    def close(self) -> None:
        self._ranges.close()
        super().close()

    def _range(self, limits: tuple[int, int]) -> bytes:
        return _read_range(self._filesystem, self._path, *limits)


class _Body(io.RawIOBase):
    """A file that is sent as one body, whose `read` returns what has arrived, also if that is less than asked for."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._opened.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._opened.close()
        super().close()


class _Decompressed(gzip.GzipFile):
    """What a stream in the format of gzip holds. Closing it closes the stream."""

    def __init__(self, packed: io.BufferedIOBase) -> None:
        self._packed = packed
        super().__init__(fileobj=packed)

    def close(self) -> None:
        super().close()
        self._packed.close()


class _RemoteFile(AbstractBufferedFile):
    """A remote object that is read at any position."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return _read_range(self.fs, self.path, start, end)


def _read_range(filesystem: AbstractFileSystem, path: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a remote object, which has at least `stop`."""

    def fetch(seconds: float) -> bytes:
        data: bytes = filesystem.cat_file(path, start=start, end=stop)
        if len(data) != stop - start:
            raise ConnectionError(f"{path}: received {len(data)} of {stop - start} bytes from {start}")
        return data

    return retried(fetch, stop - start)
