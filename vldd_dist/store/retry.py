"""Retrying operations on a file system after transient faults."""

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from vldd_dist.store.faults import is_transient

# Seconds after which an operation is given up, in addition to the time that its bytes take at the slowest accepted rate.
DEADLINE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 256 << 10
# Seconds after which a request without a connection, or without a received byte, is given up.
CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0
LONGEST_WAIT_SECONDS = 8.0

Out = TypeVar("Out")


class NotAsWritten(ConnectionError):
    """After a write, the store holds other bytes than were sent. The write is repeated."""


def retried(operation: Callable[[float], Out], size: int = 0) -> Out:
    """The operation's result. After transient faults it is retried, with jitter, until the deadline (`DEADLINE_SECONDS`).

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
        remaining = deadline - (time.monotonic() - started)
        return operation(min(remaining, CONNECT_SECONDS + READ_SECONDS + transfer))

    return retrying(attempt)
