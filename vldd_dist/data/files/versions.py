"""What tells versions of a file's content apart, cheaply."""

import os
from collections.abc import Iterable
from hashlib import file_digest
from typing import Any

import fsspec

from vldd_dist.data.files.image_folder import local_path
from vldd_dist.data.files.range_reader import file_system, open_shard
from vldd_dist.data.files.shards import reading

# What file systems call a version or checksum of a file's content, the best first: S3 and http, Azure, Google, a hub; else the
# time of the last change.
VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "Digest",
    "blob_id",
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
)

# Files in one remote folder from which on it is listed. A listing has a thousand entries a request.
MANY = 10


def version_of(url: str) -> tuple[int, str]:
    """Size in bytes, and ETag, checksum or time of the last change; where a file system has none of these, the sha256."""
    filesystem, path = fsspec.core.url_to_fs(url)
    # An older listing says nothing.
    filesystem.invalidate_cache()
    info = filesystem.info(path)
    return info["size"], recorded_version(info) or f"sha256 {sha256_of(url)}"


def recorded_version(info: dict[str, Any]) -> str:
    """What an entry of a file system's listing says of the content's version; nothing: an empty text."""
    return next((f"{name} {info[name]}" for name in VERSIONS if info.get(name)), "")


def versions_of(urls: Iterable[str], what: str) -> dict[str, tuple[int, str]]:
    """`version_of` each. A remote folder that holds many of them is listed once instead of asked for each.

    Args:
        what: comes before a URL that cannot be read.

    Raises:
        DataError: one cannot.
    """
    of_folder: dict[str, list[str]] = {}
    for url in urls:
        of_folder.setdefault(url.rpartition("/")[0], []).append(url)
    found: dict[str, tuple[int, str]] = {}
    for folder, inside in of_folder.items():
        with reading(f"{what} {inside[0]}"):
            listed = _listed(folder) if len(inside) >= MANY and _lists(folder) else {}
        for url in inside:
            with reading(f"{what} {url}"):
                # What the listing lacks is asked for: the answer says why it is not there.
                found[url] = listed.get(url.rpartition("/")[2]) or version_of(url)
    return found


def _lists(folder: str) -> bool:
    """Whether a listing of the folder says sizes and versions; a web server's does not."""
    return local_path(folder) is None and not folder.startswith(("http://", "https://"))


def _listed(folder: str) -> dict[str, tuple[int, str]]:
    """Name -> size and version of the files of a folder of which both are recorded."""
    filesystem, path = fsspec.core.url_to_fs(folder)
    filesystem.invalidate_cache()
    entries = {info["name"].rpartition("/")[2]: info for info in filesystem.ls(path, detail=True)}
    return {name: (info["size"], recorded_version(info)) for name, info in entries.items() if recorded_version(info)}


def content_version(url: str) -> str:
    """Of a file that stands for many others: the sha256 of a local one, which a copy of it has too; else `version_of`."""
    if local_path(url) is not None:
        return f"sha256 {sha256_of(url)}"
    size, version = version_of(url)
    return f"{size} bytes, {version}"


def sha256_of(url: str) -> str:
    with open_shard(url) as file:
        return file_digest(file, "sha256").hexdigest()


def listing(place: str) -> dict[str, str]:
    """The files of a folder at any depth, local or at an fsspec URL: path within the folder -> what tells versions of the file
    apart: size and time of the last change, or what the server has instead. Links to folders are not followed."""
    local = local_path(place)
    if local is None:
        filesystem, folder = file_system(place)
        start = folder.rstrip("/") + "/"
        return {path.removeprefix(start): recorded_version(info) for path, info in filesystem.find(folder, detail=True).items()}
    found: dict[str, str] = {}
    for where, _, names in os.walk(local):
        for name in names:
            path = os.path.join(where, name)
            # A link to nothing is listed too: reading it says what it is.
            status = os.stat(path) if os.path.exists(path) else os.lstat(path)
            found[os.path.relpath(path, local)] = f"{status.st_size} {status.st_mtime_ns}"
    return found
