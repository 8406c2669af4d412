"""Reading what others published on a web server, by http(s)://."""

from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import StoreError

SCHEMES = ("http", "https")


def read_range(fs: AbstractFileSystem, url: str, start: int, length: int) -> bytes:
    """`length` bytes from `start`.

    `fs.cat_file` takes a whole object for the range, where a server knows no ranges; an open file tells them apart.

    Raises:
        StoreError: the server knows no ranges.
    """
    try:
        with fs.open(url, size=start + length, block_size=max(length, 1), cache_type="none") as file:
            file.seek(start)
            return bytes(file.read(length))
    except ValueError:
        raise StoreError(
            f"{url}: the server answers no requests for parts of a file, which large objects take: serve the set by one that "
            "does (nginx, Apache, an object store), or copy its folder whole"
        ) from None
