"""The URL of a store: its scheme, and the folder or the bucket and prefix."""

import os

import fsspec

from vldd_dist.errors import StoreError
from vldd_dist.store.backends import web

# What a user may give: a URL, or a local folder, also as a `Path`.
Location = str | os.PathLike[str]

_AZURE = ("az", "abfs", "abfss")
_BUCKETS = ("s3", "s3a", "gs", "gcs", *_AZURE)


def parse_location(location: Location) -> tuple[str, str]:
    """The scheme, and the root without a trailing slash, which is absolute for local folders.

    Raises:
        StoreError: the URL is empty or has an unknown scheme, contains credentials, or is not a store's for another reason.
    """
    url = os.fspath(location)
    _refuse_mistyped(url)
    scheme, separator, path = url.partition("://") if "://" in url else ("file", "", url)
    if separator and "@" in path.partition("/")[0]:
        if scheme in _AZURE:
            raise StoreError(f"{scheme}://CONTAINER@ACCOUNT: write {scheme}://CONTAINER/PATH, set AZURE_STORAGE_ACCOUNT_NAME")
        raise StoreError("the store's URL carries credentials: give them by environment, profile or role instead")
    if scheme not in fsspec.available_protocols():
        raise StoreError(f"{url}: unknown scheme {scheme!r}; use a folder, file://, s3://, gs:// or az://")
    if not path.strip("/ "):
        # An empty path would mean the folder in which the command happens to run.
        raise StoreError(f"{url!r} names no location: give a folder, or a URL with a bucket or host and a path")
    if scheme in _BUCKETS and path.startswith("/"):
        # Some requests would leave out the slash and others would not.
        raise StoreError(f"{url}: names no bucket: write {scheme}://{path.lstrip('/')}, with two slashes")
    if scheme in web.SCHEMES and not set(path).isdisjoint("?#"):
        raise StoreError(f"{url}: a store's URL cannot have a query or fragment: remove what follows '?' or '#'")
    if scheme not in ("file", "local"):
        return scheme, path.rstrip("/")
    if separator and not path.startswith("/"):
        raise StoreError(f"{url}: the path of a {scheme}:// URL begins with '/': write {scheme}:///PATH, or the folder alone")
    # fsspec has two names for local files.
    return "file", os.path.abspath(path)


def unexpanded_home(path: str) -> str | None:
    """What is wrong with a path that begins with `~`, which only a shell expands; None for other paths."""
    if not path.startswith("~"):
        return None
    return (
        f"{path}: ~ is not expanded here: write the whole path (a shell expands ~ at the start of a word, without quotes; in "
        "Python: os.path.expanduser)"
    )


def _refuse_mistyped(url: str) -> None:
    """Raises StoreError for a URL that would be a folder named `~` or `s3:` in the current one."""
    if problem := unexpanded_home(url):
        raise StoreError(problem)
    scheme, colon, rest = url.partition(":")
    if colon and not rest.startswith("//") and scheme in fsspec.available_protocols():
        path = os.path.abspath(rest) if scheme == "file" else rest.lstrip("/")
        raise StoreError(f"{url}: write {scheme}://{path}, or ./{url} for a folder of this name")
