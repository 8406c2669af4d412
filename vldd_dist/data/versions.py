"""What tells versions of a file's content apart, cheaply."""

import os
from hashlib import file_digest
from typing import Any

import fsspec

from vldd_dist.data.image_folder import local_path
from vldd_dist.data.range_reader import file_system, open_shard

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


def version_of(url: str, *, listed: bool = False) -> tuple[int, str]:
    """Size in bytes, and ETag, checksum or time of the last change; where a file system has none of these, the sha256.

    Args:
        listed: its folder was listed just now, so that nothing more need be asked.
    """
    filesystem, path = fsspec.core.url_to_fs(url)
    if not listed:
        # An older listing says nothing.
        filesystem.invalidate_cache()
    info = filesystem.info(path)
    return info["size"], recorded_version(info) or f"sha256 {sha256_of(url)}"


def recorded_version(info: dict[str, Any]) -> str:
    """What an entry of a file system's listing says of the content's version; nothing: an empty text."""
    return next((f"{name} {info[name]}" for name in VERSIONS if info.get(name)), "")


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
