"""Opening fsspec file systems: every request has a time limit, and only one layer of the software repeats it."""

from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from vldd_dist.store import retry, s3, web

# Attempts at each request of a multipart upload, made by the client: repeating the whole upload would send all parts again.
PART_ATTEMPTS = 5


# A write to the hub is a commit: it holds sets, and no experiment.
HUB = "hf"
# Scheme -> the extra of this package that brings its library.
EXTRAS = {
    **dict.fromkeys(s3.SCHEMES, "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
    HUB: "hf",
}


def missing_library(scheme: str, error: ImportError) -> str:
    """What to install for a scheme, as the end of a sentence."""
    if extra := EXTRAS.get(scheme):
        return f"{scheme}:// needs the extra {extra!r}: pip install 'vldd_dist[{extra}]'"
    return f"{scheme}:// needs another library: {' '.join(str(error).split())}"


def open_file_system(scheme: str, given: dict[str, Any], attempts: int) -> AbstractFileSystem:
    """An fsspec file system.

    Args:
        given: the user's arguments of the file system; they override ours.
        attempts: how often the client tries a request. One, where `retry.retried` repeats it: attempts of two layers multiply.

    Raises:
        ImportError: the library for this scheme is not installed.
    """
    options = dict(given)
    if scheme != "memory":
        # A listing must include what other processes wrote a moment ago.
        options |= {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in s3.SCHEMES:
        options["config_kwargs"] = _s3_client(attempts) | options.get("config_kwargs", {})
    elif scheme in web.SCHEMES:
        options = _web_client() | options
    opened = fsspec.filesystem(scheme, **options)
    if scheme in s3.SCHEMES:
        # s3fs would otherwise repeat requests that its client has repeated.
        opened.retries = 1
    return opened


def _s3_client(attempts: int) -> dict[str, Any]:
    """Configuration of botocore's client. Signing and checksumming of bodies is switched off: https makes it needless, and it
    takes as long again as the comparison of each write with what the server then holds."""
    return {
        "connect_timeout": retry.CONNECT_SECONDS,
        "read_timeout": retry.READ_SECONDS,
        "retries": {"total_max_attempts": attempts},
        "request_checksum_calculation": "when_required",
        "s3": {"payload_signing_enabled": False},
    }


def _web_client() -> dict[str, Any]:
    """Configuration of aiohttp's client: proxies and ~/.netrc as other tools use them, and no compression of bodies."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=retry.CONNECT_SECONDS, sock_read=retry.READ_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}, "headers": {"Accept-Encoding": "identity"}}
