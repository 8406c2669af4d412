"""What an exception of a file system means: a transient fault, a refusal, an expired token, an object that exists.

File systems are told apart by the texts of their errors, because their libraries may not be installed.
"""

import errno
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

# Seconds after which an operation is given up; longer by the time its bytes take at the slowest rate that is accepted.
DEADLINE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 256 << 10
# Seconds after which a request is given up that makes no connection, or receives no byte.
CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0
LONGEST_WAIT_SECONDS = 8.0

# s3fs turns a 500 InternalError into EREMOTEIO (on macOS, which has none, into EIO).
TRANSIENT_ERRNOS = {errno.EIO, errno.EBUSY, errno.ECONNRESET, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)}
# Parts of the names of botocore's, aiohttp's and requests' base classes of errors.
TRANSIENT_NAMES = (
    "Timeout",
    "ConnectionError",
    "ConnectionClosed",
    "Disconnected",
    "IncompleteRead",
    "ClientPayload",
    "HTTPClientError",
)

Out = TypeVar("Out")


class NotAsWritten(ConnectionError):
    """After a write the store holds other bytes than were sent: the write is repeated."""


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: time-outs, cut connections, 5xx and throttling. Refusals are not transient."""
    # s3fs reports as a wrong argument or a missing object: a body that arrived damaged or short, and a multipart upload whose
    # completion succeeded although its answer was lost.
    if any(f"({code})" in words for words in _chain(error) for code in ("BadDigest", "IncompleteBody", "NoSuchUpload")):
        return True
    # huggingface_hub's error for a machine that is told to be offline is a ConnectionError.
    if "OfflineMode" in type(error).__name__:
        return False
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError | NotADirectoryError | IsADirectoryError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    if _http_status(error) in (408, 429, 500, 502, 503, 504):
        return True
    return any(name in kind.__name__ for kind in type(error).__mro__ for name in TRANSIENT_NAMES)


def retried(operation: Callable[[float], Out], size: int = 0) -> Out:
    """The operation's result. After transient faults it is tried again, with jitter, for `DEADLINE_SECONDS`.

    Args:
        operation: called with the seconds that this attempt may take.
        size: bytes that the operation sends or receives.
    """
    transfer = size / SLOWEST_BYTES_PER_SECOND
    deadline, started = DEADLINE_SECONDS + transfer, time.monotonic()
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_before_delay(deadline),
        wait=wait_random_exponential(multiplier=0.1, max=LONGEST_WAIT_SECONDS),
        reraise=True,
    )

    def attempt() -> Out:
        left = deadline - (time.monotonic() - started)
        return operation(min(left, CONNECT_SECONDS + READ_SECONDS + transfer))

    return retrying(attempt)


def _http_status(error: BaseException) -> int:
    """The HTTP status that an error of aiohttp, gcsfs or huggingface_hub carries, or 0."""
    # aiohttp's errors have `code` too, but warn when it is read.
    answer = getattr(getattr(error, "response", None), "status_code", None)
    told = str(answer or getattr(error, "status", None) or getattr(error, "code", ""))
    return int(told) if told.isdecimal() else 0


def token_expired(error: Exception) -> bool:
    """Whether S3 refused the request because its temporary credentials have expired."""
    # The answer to a HEAD request has no body that could name the error: there an expired token is a plain 400.
    return "(ExpiredToken)" in str(error.__cause__) or "(400) when calling the HeadObject" in str(error.__cause__)


def says_exists(error: BaseException) -> bool:
    """Whether a conditional put failed because the object exists."""
    return isinstance(error, FileExistsError) or any("PreconditionFailed" in words for words in _chain(error))


def says_not_implemented(error: BaseException) -> bool:
    """Whether the server does not support conditional puts."""
    return isinstance(error, NotImplementedError) or any("NotImplemented" in words for words in _chain(error))


def says_no_bucket(error: BaseException) -> bool:
    """Whether the bucket does not exist."""
    return any("bucket does not exist" in words.lower() or "NoSuchBucket" in words for words in _chain(error))


def _chain(error: BaseException) -> Iterator[str]:
    cause: BaseException | None = error
    while cause is not None:
        yield f"{type(cause).__name__} {cause}"
        cause = cause.__cause__


def sentence(error: Exception, store_url: str, key: str, seconds: float) -> str:
    """The error message for a user, of a failure at `key` after `seconds` of attempts."""
    if token_expired(error):
        return f"{store_url}: the credentials have expired or are refused: renew them"
    # gcsfs raises a bare OSError.
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden") or _http_status(error) in (401, 403):
        return f"{store_url}: permission denied at {key}: give this user or role read and write access"
    if isinstance(error, NotADirectoryError | IsADirectoryError):
        return f"{store_url}/{key}: there is a file where a folder should be, or a folder instead of a file: name another place"
    if "Credential" in type(error).__name__:
        return f"{store_url}: no usable credentials: give them by environment variables, a profile or a role"
    # botocore's and aiohttp's own errors are not shown: their texts could contain a secret, only the type certainly does not.
    text = f": {' '.join(str(error).split())}" if isinstance(error, OSError | ValueError) else ""
    if status := _http_status(error):
        text = f": HTTP {status}"
    if is_transient(error):
        return (
            f"{store_url}/{key}: given up after {seconds:.0f} s of retries ({type(error).__name__}{text}): "
            "check the disk, or the network and the endpoint, and start again"
        )
    return f"{store_url}/{key}: {type(error).__name__}{text}; see `vldd doctor`"
