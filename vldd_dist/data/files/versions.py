"""Versions of files: short texts that change with the content, preferably without reading it."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from fsspec.spec import AbstractFileSystem

from vldd_dist.control_characters import one_line
from vldd_dist.data.files.reading import reading
from vldd_dist.errors import DataError
from vldd_dist.store.retry import retried
from vldd_dist.store.user_files.digests import sha256_of, sha256_of_local
from vldd_dist.store.user_files.opening import file_info, file_system, local_path

# Keys under which file systems (S3 and http, Azure, Google, the hub) report a version or checksum of a file's content, the best
# first; the last ones are times of the last change.
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
    "modificationTime",
)

# If at least this many files of a remote folder are needed, the folder is listed: a request returns a thousand entries.
MANY = 10


class FileVersion(NamedTuple):
    """The version of a file.

    Attributes:
        size: bytes.
        tag: a text that changes with the content.
    """

    size: int
    tag: str


def version_of(url: str) -> FileVersion:
    """Size, and ETag, checksum or time of the last change; the sha256 if the file system has none of these."""
    return _version(url, *file_system(url))


def _version(url: str, filesystem: AbstractFileSystem, path: str) -> FileVersion:
    info = file_info(filesystem, path)
    return FileVersion(info["size"], recorded_version(info) or f"sha256 {sha256_of(url)}")


def recorded_version(info: dict[str, Any]) -> str:
    """The version of the content in an entry of a file system's listing; an empty text if it has none."""
    # Some servers write quotes around an ETag in one kind of answer and not in another.
    return next((f"{name} {info[name]}".replace('"', "") for name in VERSIONS if info.get(name)), "")


def versions_of(urls: Iterable[str], what: str) -> dict[str, FileVersion]:
    """URL -> `version_of` it. A remote folder with many of the files is listed once.

    Args:
        what: the words before the URL in an error.

    Raises:
        DataError: a file cannot be read.
        StoreError: it cannot be reached at the moment.
    """
    urls_in: dict[str, list[str]] = {}
    for url in urls:
        urls_in.setdefault(url.rpartition("/")[0], []).append(url)
    versions: dict[str, FileVersion] = {}
    for folder, inside in urls_in.items():
        with reading(f"{what} {inside[0]}"):
            # One for all of them, because opening one can take longer than a request.
            filesystem, _ = file_system(inside[0])
            listed = _listed(folder, filesystem) if len(inside) >= MANY and _listing_has_versions(folder) else {}
        for url in inside:
            with reading(f"{what} {url}"):
                # A file that the listing lacks is requested by itself, so that the error says why it is missing.
                found = listed.get(url.rpartition("/")[2])
                versions[url] = found or _version(url, filesystem, filesystem._strip_protocol(url))
    return versions


def _listing_has_versions(folder: str) -> bool:
    """Whether a listing of the folder has sizes and versions; a web server's does not."""
    return local_path(folder) is None and not folder.startswith(("http://", "https://"))


def _listed(folder: str, filesystem: AbstractFileSystem) -> dict[str, FileVersion]:
    """Name -> version of each file in a folder whose version is recorded."""
    path = filesystem._strip_protocol(folder)
    found = retried(lambda seconds: filesystem.ls(path, detail=True))
    entries = {info["name"].rpartition("/")[2]: info for info in found}
    return {name: FileVersion(info["size"], recorded_version(info)) for name, info in entries.items() if recorded_version(info)}


def content_version(url: str) -> str:
    """The version of a file that identifies others too: its sha256 if it is local, so that copies agree; else `version_of`."""
    local = local_path(url)
    if local is not None:
        return f"sha256 {sha256_of_local(local)}"
    version = version_of(url)
    return f"{version.size} bytes, {version.tag}"


def listing(location: str) -> dict[str, str]:
    """The files of a folder at any depth, local or at an fsspec URL: path in the folder -> version of the file, which is its
    size and time of the last change or what the server has instead. Hidden files and folders are left out, and links to folders
    are not followed.

    Raises:
        OSError: a folder in it cannot be listed.
        DataError: the server reports neither a version nor a time of a file, so that an edit that keeps the size would not be
            seen.
    """
    local = local_path(location)
    if local is None:
        filesystem, folder = file_system(location)
        start = folder.rstrip("/") + "/"
        found = retried(lambda seconds: filesystem.find(folder, detail=True))
        entries = {path.removeprefix(start): info for path, info in found.items()}
        shown = {path: info for path, info in entries.items() if not any(part.startswith(".") for part in path.split("/"))}
        if unversioned := next((path for path, info in shown.items() if not recorded_version(info)), None):
            raise DataError(
                f"{location}: the server reports neither a checksum nor a time of the last change of {one_line(unversioned)}, "
                "so changes would not be seen: copy the folder to a disk or an object store, or make tars of it (source shards)"
            )
        return {path: f"{info['size']} {recorded_version(info)}" for path, info in shown.items()}
    versions: dict[str, str] = {}
    for where, folders, names in os.walk(local, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(where, name)
            try:
                status = os.stat(path)
            except OSError:
                # A broken link is listed too, so that reading it reports an error.
                status = os.lstat(path)
            versions[os.path.relpath(path, local)] = f"{status.st_size} {status.st_mtime_ns}"
    return versions


def would_list(location: str, path: str) -> bool:
    """Whether a file in the local folder `path`, at any depth, would be in the `listing` of a location."""
    local = local_path(location)
    if local is None:
        return False
    within = os.path.relpath(os.path.realpath(path), os.path.realpath(local))
    # ".." is outside, and ".name" is hidden.
    return within == "." or not any(part.startswith(".") for part in within.split(os.sep))


def _raise(error: OSError) -> NoReturn:
    """For `os.walk`, which otherwise leaves out a folder that it cannot list."""
    raise error
