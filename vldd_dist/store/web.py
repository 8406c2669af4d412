"""Reading distilled sets from a web server (http:// or https://)."""

from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError

SCHEMES = ("http", "https")


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
