"""What an exception of a file system means: worth another attempt, a refusal, an expired token, an object that exists.

File systems are told apart by what their errors say, for none of their libraries need be installed.
"""

import errno
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

# An operation ends within this, done or given up: longer by what its bytes take at the slowest rate that is waited for.
DEADLINE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 256 << 10
# One request is given up when no connection is made, or no byte comes, for so long.
CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0
LONGEST_WAIT_SECONDS = 8.0

# s3fs gives a 500 InternalError EREMOTEIO (absent on macOS, where it falls back to EIO itself).
TRANSIENT_ERRNOS = {errno.EIO, errno.EBUSY, errno.ECONNRESET, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)}
# Base classes of botocore's, aiohttp's and requests' errors.
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
    """What lies in the store after a write is not what was sent: the write is repeated."""


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: time-outs, cut connections, 5xx and throttling, but no refusal."""
    # What s3fs takes for a wrong argument or a missing object: a body that came damaged or short, and a multipart upload
    # that ended already, for the answer to its completion was lost.
    if any(f"({code})" in words for words in _chain(error) for code in ("BadDigest", "IncompleteBody", "NoSuchUpload")):
        return True
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
    """The operation's result, tried again after transient faults, with jitter, within `DEADLINE_SECONDS`.

    Args:
        operation: gets the seconds that this attempt may take.
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
    """As aiohttp's and gcsfs's errors tell it; else 0."""
    # aiohttp has the other name too, and warns of it.
    told = str(getattr(error, "status", None) or getattr(error, "code", ""))
    return int(told) if told.isdecimal() else 0


def token_expired(error: Exception) -> bool:
    # The answer to a HEAD has no body that could name the error: there an expired token is a bare 400.
    return "(ExpiredToken)" in str(error.__cause__) or "(400) when calling the HeadObject" in str(error.__cause__)


def says_exists(error: BaseException) -> bool:
    return isinstance(error, FileExistsError) or any("PreconditionFailed" in words for words in _chain(error))


def says_not_implemented(error: BaseException) -> bool:
    """A server that knows no conditional put."""
    return isinstance(error, NotImplementedError) or any("NotImplemented" in words for words in _chain(error))


def says_no_bucket(error: BaseException) -> bool:
    return any("bucket does not exist" in words.lower() or "NoSuchBucket" in words for words in _chain(error))


def _chain(error: BaseException) -> Iterator[str]:
    cause: BaseException | None = error
    while cause is not None:
        yield f"{type(cause).__name__} {cause}"
        cause = cause.__cause__


def sentence(error: Exception, store_url: str, key: str, seconds: float) -> str:
    """What a user reads of a failure at `key` after so many seconds."""
    if token_expired(error):
        return f"{store_url}: the credentials have expired or are refused: renew them"
    # gcsfs raises a bare OSError.
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden") or _http_status(error) in (401, 403):
        return f"{store_url}: permission denied at {key}: give this user or role read and write access"
    if isinstance(error, NotADirectoryError | IsADirectoryError):
        return f"{store_url}/{key}: a file stands where a folder should, or the reverse: name another place"
    if "Credential" in type(error).__name__:
        return f"{store_url}: no usable credentials: give them by environment, profile or role"
    # botocore and aiohttp raise outside OSError; their texts name no secret, yet only the type is sure.
    text = f": {' '.join(str(error).split())}" if isinstance(error, OSError | ValueError) else ""
    if status := _http_status(error):
        text = f": HTTP {status}"
    if is_transient(error):
        return (
            f"{store_url}/{key}: given up after {seconds:.0f} s of retries ({type(error).__name__}{text}): "
            "check the disk, or the network and the endpoint, and start again"
        )
    return f"{store_url}/{key}: {type(error).__name__}{text}; see `vldd doctor`"
