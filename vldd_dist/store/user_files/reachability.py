"""Errors of reading a user's file: telling faults of the network or the machine from files that are missing or damaged.

A damaged image is a bad sample, which is left out. An image that cannot be reached at the moment must not be left out: the unit
would be committed without it.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from vldd_dist.errors import Outage, UnusableHere, message_of
from vldd_dist.store.faults import is_transient, token_expired

# The machine lacks file descriptors, memory or space on a disk. Not EIO, which is transient. The module
# `ray_backend.workers.exceptions` has a list of its own, because it may import none of ours.
OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def check_reachable(what: str, error: Exception, or_else: str = "") -> None:
    """Pass an error of reading that is about the file itself, or about the offline mode of the Hugging Face hub.

    Args:
        what: the file.
        or_else: what the user may do where it can never be reached; follows "start again".

    Raises:
        Outage: the error is a fault of the network.
        UnusableHere: the error is a fault of the machine, or expired credentials.
        MemoryError: the error is one, for which the unit has its own sentence.
    """
    if isinstance(error, MemoryError):
        raise error
    reason, errors = f"{what}: cannot be reached ({reason_of(error)})", _chain(error)
    if any("OfflineMode" in type(one).__name__ for one in errors):
        return
    if any(map(token_expired, errors)):
        raise UnusableHere(f"{reason}: renew the credentials and start again") from None
    if any(map(is_transient, errors)):
        raise Outage(f"{reason}: start again{or_else}") from None
    if any(isinstance(one, OSError) and one.errno in OF_THE_MACHINE for one in errors):
        raise UnusableHere(f"{reason}: start again{or_else}") from None


@contextmanager
def reaching(what: str, or_else: str) -> Iterator[None]:
    """`check_reachable` for the errors of the `with` block, which otherwise pass."""
    try:
        yield
    except Exception as error:
        check_reachable(what, error, or_else)
        raise


def _chain(error: BaseException) -> list[BaseException]:
    """The error, its cause, the cause of that, and so on. Libraries of the hub and of data sets wrap a fault of the network in
    an error that by itself says that a file is missing."""
    errors: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in errors:
        errors.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return errors


def reason_of(error: Exception) -> str:
    """An error's own words in one line, with its type unless it is one of the operating system's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__} {message_of(error)}" if str(error) else type(error).__name__
