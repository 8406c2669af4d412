"""Opening fsspec file systems. Every request has a time limit and is repeated by only one layer of the software."""

import os
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from vldd_dist.errors import message_of
from vldd_dist.extras import how_to_add
from vldd_dist.store import retry
from vldd_dist.store.backends import s3, web

# Attempts at each request of a multipart upload. The client makes them, because repeating the upload would send all parts
# again.
PART_ATTEMPTS = 5


# The hub holds distilled sets but no experiments, because every write to it is a commit of a repository.
HUB = "hf"
GCS_SCHEMES = ("gs", "gcs")
# Scheme -> the extra of this package that installs its library.
EXTRA_OF_SCHEME = {
    **dict.fromkeys(s3.SCHEMES, "s3"),
    **dict.fromkeys(GCS_SCHEMES, "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
    HUB: "hf",
}


def missing_library(scheme: str, error: ImportError) -> str:
    """What to install for a scheme, as the end of a sentence."""
    if extra := EXTRA_OF_SCHEME.get(scheme):
        return f"{scheme}:// needs the extra {extra!r}: {how_to_add(extra)}"
    return f"{scheme}:// needs another library: {message_of(error)}"


def open_file_system(scheme: str, attempts: int) -> AbstractFileSystem:
    """An fsspec file system.

    Args:
        attempts: number of times that the client tries a request. It must be one if `retry.retried` repeats the request,
            because the attempts of both would multiply.

    Raises:
        ImportError: the library for this scheme is not installed.
    """
    options: dict[str, Any] = {}
    if scheme != "memory":
        # A listing must include what other processes wrote a moment ago.
        options = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in s3.SCHEMES:
        # On EC2, credentials come from a service on the machine. By default a single request of one second is made.
        os.environ.setdefault("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "4")
        os.environ.setdefault("AWS_METADATA_SERVICE_TIMEOUT", "2")
        options["config_kwargs"] = _s3_client(attempts)
        if attempts == 1:
            # To read large objects in parts at once, s3fs would otherwise ask for the size of each object before it reads it.
            options["max_concurrency"] = 1
    elif scheme in web.SCHEMES:
        options |= _web_client()
    elif scheme in GCS_SCHEMES:
        # By default gcsfs waits without a limit for the next byte of a connection, also if it has died.
        options["requests_timeout"] = _time_limits()
    opened = fsspec.filesystem(scheme, **options)
    if scheme in s3.SCHEMES:
        # s3fs would otherwise repeat requests that its client has already repeated.
        opened.retries = 1
    return opened


def _s3_client(attempts: int) -> dict[str, Any]:
    """Configuration of botocore's client. Signing and checksumming of bodies is switched off: it is not needed with https,
    and it takes as long as the comparison of each stored object with what was sent."""
    return {
        "connect_timeout": retry.CONNECT_SECONDS,
        "read_timeout": retry.READ_SECONDS,
        "retries": {"total_max_attempts": attempts},
        "request_checksum_calculation": "when_required",
        "s3": {"payload_signing_enabled": False},
    }


def _web_client() -> dict[str, Any]:
    """Configuration of aiohttp's client: proxies and ~/.netrc are used as by other tools. Bodies are not compressed, nor
    decompressed if a server compresses them nevertheless: a few bytes could fill the memory."""
    client = {"timeout": _time_limits(), "trust_env": True, "auto_decompress": False}
    return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}


def _time_limits() -> Any:
    """aiohttp's limits for connecting and for the wait for each byte; the whole request has none."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=retry.CONNECT_SECONDS, sock_read=retry.READ_SECONDS)
