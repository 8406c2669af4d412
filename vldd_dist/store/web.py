"""Reading distilled sets from a web server, by http:// or https://."""

from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError

SCHEMES = ("http", "https")


def read_range(fs: AbstractFileSystem, url: str, start: int, length: int) -> bytes:
    """`length` bytes from byte `start`.

    `fs.cat_file` would return the whole object if the server ignores the range; an open file notices it.

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
            "does (nginx, Apache, an object store), or copy its folder whole"
        ) from None
