"""Functions for S3 only: multipart uploads, and finding those that were never finished."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

SCHEMES = ("s3", "s3a")
# The part size of multipart uploads, whose parts are sent in parallel (S3's smallest part is 5 MiB).
PART_BYTES = 16 << 20
# Before a larger object is sent, the server must have answered a small request.
SMALL_BYTES = 1 << 20


def await_answer(fs: AbstractFileSystem, path: str, limit: dict[str, float]) -> None:
    """Wait for any answer of the server before a large body is sent: while a body is sent, an unreachable server is not
    noticed.

    Raises:
        Exception: the error of a request without an answer.
    """
    bucket, _, key = path.partition("/")
    with suppress(FileNotFoundError, PermissionError):
        fs.call_s3("head_object", Bucket=bucket, Key=key, **limit)


def objects_of_page(
    fs: AbstractFileSystem, bucket: str, prefix: str, page: str | None, limit: dict[str, float]
) -> tuple[list[dict[str, Any]], str | None]:
    """At most a thousand objects below a prefix, without markers of folders, and the token of the page that follows, if any.

    Args:
        page: token of the page; None: the first one.
    """
    request = {"Bucket": bucket, "Prefix": prefix} | ({"ContinuationToken": page} if page else {})
    found = fs.call_s3("list_objects_v2", **request, **limit)
    objects = [info for info in found.get("Contents") or [] if not info["Key"].endswith("/")]
    return objects, found["NextContinuationToken"] if found.get("IsTruncated") else None


def unfinished_uploads(fs: AbstractFileSystem, bucket: str, prefix: str, before: datetime) -> list[dict[str, Any]]:
    """Multipart uploads below a prefix that were begun and last received a part before a time by the server's clock.

    The times of the parts are checked too, because a large upload may have been begun long ago and still be active. (The mock
    server moto reports a date in the past for every upload.)
    """
    uploads = _pages(fs, "list_multipart_uploads", "Uploads", ("KeyMarker", "UploadIdMarker"), Bucket=bucket, Prefix=prefix)

    def parts(upload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        request = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        return _pages(fs, "list_parts", "Parts", ("PartNumberMarker",), **request)

    return [
        upload
        for upload in uploads
        if upload["Initiated"] < before and all(part["LastModified"] < before for part in parts(upload))
    ]


def _pages(
    fs: AbstractFileSystem, method: str, items: str, markers: tuple[str, ...], **request: Any
) -> Iterator[dict[str, Any]]:
    """The entries under the key `items` in all pages of an S3 listing; `markers` are the request's keys for the next page."""
    while True:
        page = fs.call_s3(method, **request)
        yield from page.get(items) or []
        if not page.get("IsTruncated"):
            return
        request |= {marker: page[f"Next{marker}"] for marker in markers}
