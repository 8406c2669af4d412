"""Reading distilled sets from a web server (http:// or https://)."""

import contextlib
import io
from typing import Any

from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError
from vldd_dist.store.faults import http_status

SCHEMES = ("http", "https")


def info(fs: AbstractFileSystem, url: str, limit: dict[str, float]) -> dict[str, Any]:
    """The size of an object, as fsspec's `info`, which reports every failed request as a missing object.

    Raises:
        FileNotFoundError: the server says that there is no such object.
        Exception: what made the request fail.
    """
    try:
        return dict(fs.info(url, **limit))
    except FileNotFoundError as error:
        if error.__cause__ is None or http_status(error.__cause__) in (404, 410):
            raise
        raise error.__cause__ from None


class _TooLong(Exception):
    """More bytes have arrived than were wanted."""


class _Buffer(io.BytesIO):
    """Bytes in memory, at most `most` of them."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def write(self, data: Any) -> int:
        written = super().write(data[: self.most - self.tell()])
        if self.tell() == self.most:
            raise _TooLong
        return written


def read(fs: AbstractFileSystem, url: str, at_most: int) -> bytes:
    """The whole object, or its first `at_most` + 1 bytes if it is longer: a server can send without end."""
    buffer = _Buffer(at_most + 1)
    with contextlib.suppress(_TooLong):
        fs.get_file(url, buffer, chunk_size=1 << 16)
    return buffer.getvalue()


def read_range(fs: AbstractFileSystem, url: str, start: int, length: int) -> bytes:
    """`length` bytes from byte `start`.

    If the server ignores the range, `fs.cat_file` returns the whole object, while reading an open file raises an error.

    Raises:
        StoreError: the server does not support range requests.
    """
    try:
        with fs.open(url, size=start + length, block_size=max(length, 1), cache_type="none") as file:
            file.seek(start)
            return bytes(file.read(length))
    except ValueError:
        raise StoreError(
            f"{url}: the server does not support range requests, which large objects need: serve the set with one that "
            "does (nginx, Apache, an object store), or copy the whole folder"
        ) from None
