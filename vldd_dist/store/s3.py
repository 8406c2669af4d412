"""What is particular to S3: uploads in parts, and those that nobody ended."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

SCHEMES = ("s3", "s3a")
# Larger objects are uploaded in parts of this size, several at once (S3's smallest part is 5 MiB).
PART_BYTES = 16 << 20
# What is larger is sent only when the server has answered.
SMALL_BYTES = 1 << 20


def await_answer(fs: AbstractFileSystem, path: str, limit: dict[str, float]) -> None:
    """Any answer of the server, before it is sent what takes long: nothing is heard while a large body goes.

    Raises:
        Exception: as any request that gets none.
    """
    bucket, _, key = path.partition("/")
    with suppress(FileNotFoundError, PermissionError):
        fs.call_s3("head_object", Bucket=bucket, Key=key, **limit)


def unended_uploads(fs: AbstractFileSystem, bucket: str, prefix: str, before: datetime) -> list[dict[str, Any]]:
    """Uploads in parts below a prefix that were begun, and last got a part, before a moment of the server's clock.

    An upload of a large object may be older than any age and alive; moto dates all in the past.
    """
    uploads = _pages(fs, "list_multipart_uploads", "Uploads", ("KeyMarker", "UploadIdMarker"), Bucket=bucket, Prefix=prefix)

    def parts(upload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        asked = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        return _pages(fs, "list_parts", "Parts", ("PartNumberMarker",), **asked)

    return [
        upload
        for upload in uploads
        if upload["Initiated"] < before and all(part["LastModified"] < before for part in parts(upload))
    ]


def _pages(fs: AbstractFileSystem, method: str, items: str, markers: tuple[str, ...], **asked: Any) -> Iterator[dict[str, Any]]:
    while True:
        page = fs.call_s3(method, **asked)
        yield from page.get(items) or []
        if not page.get("IsTruncated"):
            return
        asked |= {marker: page[f"Next{marker}"] for marker in markers}
