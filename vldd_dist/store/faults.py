"""What an exception of a file system means (a transient fault, a refusal, an expired token, an existing object), and its
sentence for the user.

Errors are recognised by their names and texts, because the libraries of the file systems may not be installed.
"""

import errno
from collections.abc import Iterator

from vldd_dist.errors import Outage, StoreError, UnusableHere, message_of

# s3fs turns a 500 InternalError into EREMOTEIO (into EIO on macOS, which has no EREMOTEIO).
TRANSIENT_ERRNOS = {
    *(errno.EIO, errno.EBUSY, errno.ECONNRESET, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)),
    # NFS: another machine has replaced the file.
    errno.ESTALE,
}
# Parts of the names of base classes of errors in botocore, aiohttp, requests and httpx, and of the socket library's error for a
# name that is not resolved.
TRANSIENT_NAMES = (
    "Timeout",
    "ConnectionError",
    "ConnectionClosed",
    "Disconnected",
    "IncompleteRead",
    "ClientPayload",
    "HTTPClientError",
    "TransportError",
    "gaierror",
)

# Parts of the texts of botocore's errors. The answer to a HEAD request has no body that could name the error, so an expired
# token appears as a plain 400. The last two are of the token service.
TOKEN_EXPIRED = (
    "(ExpiredToken)",
    "(400) when calling the HeadObject",
    "(ExpiredTokenException)",
    "(InvalidIdentityToken)",
)


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: time-outs, cut connections, 5xx and throttling. Refusals are not transient."""
    # s3fs raises errors that look like a wrong argument or a missing object if a body arrived damaged or short, or if a
    # multipart upload was completed but the answer was lost.
    if any(f"({code})" in words for words in _texts(error) for code in ("BadDigest", "IncompleteBody", "NoSuchUpload")):
        return True
    # huggingface_hub's error in offline mode is a ConnectionError, but repeating the request cannot help.
    if "OfflineMode" in type(error).__name__:
        return False
    # s3fs raises an EIO for a code of the token service. The store looks the token up again.
    if token_expired(error):
        return False
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError | NotADirectoryError | IsADirectoryError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    if http_status(error) in (408, 429, 500, 502, 503, 504):
        return True
    return any(name in kind.__name__ for kind in type(error).__mro__ for name in TRANSIENT_NAMES)


def http_status(error: BaseException) -> int:
    """The HTTP status in an error of aiohttp, gcsfs or huggingface_hub, or 0."""
    # `code` comes last, because aiohttp's errors have it too, but warn when it is read.
    of_response = getattr(getattr(error, "response", None), "status_code", None)
    status = str(of_response or getattr(error, "status", None) or getattr(error, "code", ""))
    return int(status) if status.isdecimal() else 0


def token_expired(error: BaseException) -> bool:
    """Whether S3 refused the request because its temporary credentials have expired, or the token service (STS) refused the
    token by which this machine asks for them."""
    return any(words in str(error.__cause__) for words in TOKEN_EXPIRED)


def says_exists(error: BaseException) -> bool:
    """Whether a conditional put failed because the object exists."""
    return isinstance(error, FileExistsError) or any("PreconditionFailed" in words for words in _texts(error))


def says_not_implemented(error: BaseException) -> bool:
    """Whether the server does not support conditional puts."""
    return isinstance(error, NotImplementedError) or any("NotImplemented" in words for words in _texts(error))


def says_no_bucket(error: BaseException) -> bool:
    """Whether the bucket does not exist."""
    return any("bucket does not exist" in words.lower() or "NoSuchBucket" in words for words in _texts(error))


def store_error(error: Exception, store_url: str, key: str, seconds: float) -> StoreError:
    """The error for a user about a failure at `key` after `seconds` of attempts."""
    # s3fs turns it into a PermissionError, but it is the same on every machine.
    if any("(InvalidObjectState)" in words for words in _texts(error)):
        return StoreError(
            f"{store_url}/{key}: is archived, probably by a lifecycle rule of the bucket: restore it, and exempt the store "
            "from that rule"
        )
    if isinstance(error, NotADirectoryError | IsADirectoryError):
        return StoreError(
            f"{store_url}/{key}: there is a file where a folder should be, or a folder instead of a file: name another place"
        )
    # Of what else may go wrong, a misconfigured or broken machine can be the cause.
    kind = Outage if is_transient(error) else UnusableHere
    return kind(_why_unreachable(error, store_url, key, seconds))


def _why_unreachable(error: Exception, store_url: str, key: str, seconds: float) -> str:
    if any("(RequestTimeTooSkewed)" in words for words in _texts(error)):
        return f"{store_url}: the server refuses requests because this machine's clock is wrong: set it, by NTP for example"
    if token_expired(error):
        return f"{store_url}: the credentials have expired or are refused: renew them"
    # gcsfs raises a bare OSError.
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden") or http_status(error) in (401, 403):
        return f"{store_url}: permission denied at {key}: give this user or role read and write access"
    if "Credential" in type(error).__name__:
        return f"{store_url}: no usable credentials: give them by environment variables, a profile or a role"
    # The texts of botocore's and aiohttp's own errors could contain a secret, so only their type is shown.
    text = f": {message_of(error)}" if isinstance(error, OSError | ValueError) and str(error) else ""
    if status := http_status(error):
        text = f": HTTP {status}"
    if is_transient(error):
        return (
            f"{store_url}/{key}: given up after {seconds:.0f} s of retries ({type(error).__name__}{text}): "
            "check the disk, or the network and the endpoint, and start again"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{store_url}/{key}: {error.strerror}: free or allow more space, and start again"
    return f"{store_url}/{key}: {type(error).__name__}{text}; see `vldd doctor`"


def _texts(error: BaseException) -> Iterator[str]:
    """Type and text of the error, of its cause, of the cause of that, and so on. Not of an error during whose handling it was
    raised, as of an earlier attempt: that one says nothing about this one."""
    cause: BaseException | None = error
    while cause is not None:
        yield f"{type(cause).__name__} {cause}"
        cause = cause.__cause__
