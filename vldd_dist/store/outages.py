"""Errors of reading a user's file: telling faults of the network or the machine from files that are missing or damaged.

A damaged image is a bad sample, which is left out. An image that cannot be reached at the moment must not be left out: the unit
would be committed without it.
"""

import errno

from vldd_dist.errors import StoreOutage, StoreUnreachable, short
from vldd_dist.store.retry import is_transient, token_expired

# The machine lacks file descriptors or memory, or a network file system was mounted again.
OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}


def check_reachable(what: str, error: Exception) -> None:
    """Pass an error of reading that is about the file itself.

    Args:
        what: the file.

    Raises:
        StoreOutage: the error is a fault of the network.
        StoreUnreachable: the error is a fault of the machine, or expired credentials.
        MemoryError: the error is one, for which the unit has its own sentence.
    """
    if isinstance(error, MemoryError):
        raise error
    reason = f"{what}: cannot be reached ({reason_of(error)})"
    if token_expired(error):
        raise StoreUnreachable(f"{reason}: renew the credentials and start again") from None
    if is_transient(error):
        raise StoreOutage(f"{reason}: start again") from None
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        raise StoreUnreachable(f"{reason}: start again") from None


def reason_of(error: Exception) -> str:
    """An error's own words in one line, with its type unless it is one of the operating system's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__} {short(error)}" if str(error) else type(error).__name__
