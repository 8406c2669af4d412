"""Writing an object to a remote store, and checking what the store then holds."""

import base64
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5

from fsspec.spec import AbstractFileSystem

from vldd_dist.store.backends import s3
from vldd_dist.store.retry import NotAsWritten, says_not_implemented


def is_multipart(scheme: str, size: int) -> bool:
    """Whether an object of `size` bytes is sent as a multipart upload."""
    return scheme in s3.SCHEMES and size >= 2 * s3.PART_BYTES


def put_object(
    fs: AbstractFileSystem, sender: AbstractFileSystem, scheme: str, path: str, data: bytes, limit: dict[str, float]
) -> None:
    """Send an object, then check that the store holds it, by the store's checksum or by reading it back.

    Args:
        sender: the file system that sends the object; `fs` makes all other requests.
        limit: further arguments of the file system's calls, which limit their duration.

    Raises:
        NotAsWritten: the store holds other bytes.
    """
    with ThreadPoolExecutor(1) as pool:
        expected = pool.submit(checksums, data)
        sender.pipe_file(path, data, **({"chunksize": s3.PART_BYTES} if scheme in s3.SCHEMES else {}), **limit)
    if not _holds(fs, path, data, expected.result(), limit):
        raise NotAsWritten(f"{path} was sent with {len(data)} bytes, but the store holds other bytes")


def ensure_object(
    fs: AbstractFileSystem, sender: AbstractFileSystem, scheme: str, path: str, data: bytes, limit: dict[str, float]
) -> None:
    """Check that the store holds what this caller has created, and otherwise send it again; arguments as for `put_object`.

    Raises:
        NotAsWritten: the store still holds other bytes.
        FileNotFoundError: the object has been removed since.
    """
    if not _holds(fs, path, data, checksums(data), limit):
        put_object(fs, sender, scheme, path, data, limit)


def _holds(fs: AbstractFileSystem, path: str, data: bytes, expected: set[str], limit: dict[str, float]) -> bool:
    """Whether the store holds these bytes, by the checksum that it reports, or else by reading the object."""
    info = fs.info(path, **limit)
    # Google Cloud Storage reports an MD5. S3's ETag is the MD5, unless the store encrypts with keys of its own.
    reported = {str(info.get("ETag", "")).strip('"'), info.get("md5Hash")}
    return bool(info["size"] == len(data) and (reported & expected or fs.cat_file(path, **limit) == data))


def create_object(fs: AbstractFileSystem, path: str, data: bytes, limit: dict[str, float], fall_back: bool) -> None:
    """Create an object by a conditional put.

    Args:
        fall_back: on a server without conditional puts, put it without a condition. That the object does not exist is checked
            before, also for servers and client libraries that ignore the condition.

    Raises:
        FileExistsError, or the file system's own error: the object exists.
    """
    if fall_back and fs.exists(path, **limit):
        raise FileExistsError(path)
    try:
        fs.pipe_file(path, data, mode="create", **limit)
    except (OSError, NotImplementedError) as error:
        if not (fall_back and says_not_implemented(error)):
            raise
        fs.pipe_file(path, data, **limit)


def checksums(data: bytes) -> set[str]:
    """The checksums that a store may report for these bytes: their MD5 in hex or base64, or, after a multipart upload to S3,
    the MD5 of the parts' MD5s."""
    view = memoryview(data)
    if len(data) < 2 * s3.PART_BYTES:
        whole = md5(view, usedforsecurity=False)
        return {whole.hexdigest(), base64.b64encode(whole.digest()).decode()}
    starts = range(0, len(data), s3.PART_BYTES)
    parts = b"".join(md5(view[start : start + s3.PART_BYTES], usedforsecurity=False).digest() for start in starts)
    return {f"{md5(parts, usedforsecurity=False).hexdigest()}-{len(starts)}"}
