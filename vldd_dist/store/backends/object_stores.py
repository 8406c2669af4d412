"""Object stores: every object that is written is compared with what the store then holds."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from hashlib import md5
from typing import Any

from vldd_dist.store.backends import s3
from vldd_dist.store.backends.base import Backend, Limit
from vldd_dist.store.backends.listing import Listed, Page, by_key
from vldd_dist.store.faults import says_not_implemented
from vldd_dist.store.retry import NotAsWritten


class ObjectStore(Backend):
    """Google Cloud Storage, Azure, and others."""

    def write(self, path: str, data: bytes, limit: Limit) -> None:
        """Send an object, then check that the store holds it, by the store's checksum or by reading it back.

        Raises:
            NotAsWritten: the store holds other bytes.
        """
        with ThreadPoolExecutor(1) as pool:
            expected = pool.submit(checksums, data)
            self._send(path, data, limit)
        if not self._holds(path, data, expected.result(), limit):
            raise NotAsWritten(f"{path} was sent with {len(data)} bytes, but the store holds other bytes")

    def create(self, path: str, data: bytes, limit: Limit, fall_back: bool = True) -> None:
        # Checked before also for servers and client libraries that ignore the condition.
        if fall_back and self.fs.exists(path, **limit):
            raise FileExistsError(path)
        try:
            self.fs.pipe_file(path, data, mode="create", **limit)
        except (OSError, NotImplementedError) as error:
            if not (fall_back and says_not_implemented(error)):
                raise
            self.fs.pipe_file(path, data, **limit)

    def confirm(self, path: str, data: bytes, limit: Limit) -> None:
        if not self._holds(path, data, checksums(data), limit):
            self.write(path, data, limit)

    def _send(self, path: str, data: bytes, limit: Limit) -> None:
        self.fs.pipe_file(path, data, **limit)

    def _holds(self, path: str, data: bytes, expected: set[str], limit: Limit) -> bool:
        """Whether the store holds these bytes, by the checksum that it reports, or else by reading the object."""
        info = self.fs.info(path, **limit)
        same = reported_checksums(info) & expected
        return bool(info["size"] == len(data) and (same or self.fs.cat_file(path, **limit) == data))

    def reports_checksum(self, path: str, data: bytes, limit: Limit) -> bool:
        return bool(reported_checksums(self.fs.info(path, **limit)) & checksums(data))


class S3(ObjectStore):
    """S3 and stores with its interface. A large object is sent in parts."""

    def first_request(self, size: int) -> Callable[[str, Limit], None] | None:
        return (lambda path, limit: s3.await_answer(self.fs, path, limit)) if size > s3.SMALL_BYTES else None

    def _send(self, path: str, data: bytes, limit: Limit) -> None:
        sender = self.fs_for_parts if len(data) >= 2 * s3.PART_BYTES else self.fs
        sender.pipe_file(path, data, chunksize=s3.PART_BYTES, **limit)

    def find(self, path: str, temporary: bool, page: str | None, limit: Limit) -> Page:
        # One request, because a listing of many pages takes longer than a fault of one of them may.
        bucket, _, prefix = path.partition("/")
        found, following = s3.objects_of_page(self.fs, bucket, f"{prefix}/", page, limit)
        listed = {f"{bucket}/{info['Key']}": Listed.of(info | {"size": info["Size"]}) for info in found}
        return Page(by_key(listed, self.root, temporary), following)

    def abort_uploads(self, path: str, before: datetime, abort: bool) -> list[str]:
        bucket, _, prefix = path.partition("/")
        # The slash keeps `units-old` out of the prefix `units`.
        unfinished = s3.unfinished_uploads(self.fs, bucket, f"{prefix}/", before)
        for upload in unfinished if abort else ():
            self.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return [f"{bucket}/{upload['Key']}".removeprefix(f"{self.root}/") for upload in unfinished]


def reported_checksums(info: dict[str, Any]) -> set[str]:
    """What a store reports of an object's content. Google Cloud Storage reports an MD5. S3's ETag is the MD5, unless the store
    encrypts with keys of its own."""
    return {str(info.get("ETag", "")).strip('"'), str(info.get("md5Hash", ""))}


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
