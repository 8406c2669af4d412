"""S3 only: multipart uploads, and finding those that were never finished."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

SCHEMES = ("s3", "s3a")
# The part size of multipart uploads, whose parts are sent in parallel (S3's smallest part is 5 MiB).
PART_BYTES = 16 << 20
# Larger objects are sent only after the server has answered a small request.
SMALL_BYTES = 1 << 20


def await_answer(fs: AbstractFileSystem, path: str, limit: dict[str, float]) -> None:
    """Wait for any answer of the server before sending a large body, during which an unreachable server is not noticed.

    Raises:
        Exception: as any request that gets no answer.
    """
    bucket, _, key = path.partition("/")
    with suppress(FileNotFoundError, PermissionError):
        fs.call_s3("head_object", Bucket=bucket, Key=key, **limit)


def unfinished_uploads(fs: AbstractFileSystem, bucket: str, prefix: str, before: datetime) -> list[dict[str, Any]]:
    """Multipart uploads below a prefix that were begun, and last received a part, before a time by the server's clock.

    The parts are looked at too, because a large upload may have been begun long ago and still be active. (The mock server moto
    reports a date in the past for every upload.)
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
