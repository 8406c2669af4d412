"""How file systems are opened: every request ends, and is repeated in one place only."""

from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from vldd_dist.store import retry, s3, web

# A request of an upload in parts is repeated by the client: beginning again would send all of the object again.
PART_ATTEMPTS = 5


def open_file_system(scheme: str, given: dict[str, Any], attempts: int) -> AbstractFileSystem:
    """Args:
        given: arguments of the user's, which stand above ours.
        attempts: at each request, by the client. One, for `retry.retried` repeats: attempts of several layers multiply.

    Raises:
        ImportError: a library for this scheme is not installed.
    """
    options = dict(given)
    if scheme != "memory":
        # Listings must show what other processes wrote a moment ago.
        options |= {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in s3.SCHEMES:
        options["config_kwargs"] = _s3_client(attempts) | options.get("config_kwargs", {})
    elif scheme in web.SCHEMES:
        options = _web_client() | options
    opened = fsspec.filesystem(scheme, **options)
    if scheme in s3.SCHEMES:
        # Else s3fs repeats what its client has repeated.
        opened.retries = 1
    return opened


def _s3_client(attempts: int) -> dict[str, Any]:
    """Of botocore. Each write is compared with what the server then holds: signing and summing the bytes on their way as well,
    which https makes needless, takes as long again as that."""
    return {
        "connect_timeout": retry.CONNECT_SECONDS,
        "read_timeout": retry.READ_SECONDS,
        "retries": {"total_max_attempts": attempts},
        "request_checksum_calculation": "when_required",
        "s3": {"payload_signing_enabled": False},
    }


def _web_client() -> dict[str, Any]:
    """Of aiohttp: proxies and ~/.netrc as other tools use them, and bytes as they lie there."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=retry.CONNECT_SECONDS, sock_read=retry.READ_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}, "headers": {"Accept-Encoding": "identity"}}
