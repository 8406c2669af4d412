"""Errors of reading a source's files as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from vldd_dist.errors import DataError, message_of
from vldd_dist.store.user_files.reachability import check_reachable


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns any exception of the `with` block (OSError, unknown scheme, missing credentials) into DataError, except what
    `check_reachable` raises for faults of the network or the machine."""
    try:
        yield
    except Exception as error:
        check_reachable(what, error)
        raise DataError(f"{what} cannot be read ({message_of(error)}): correct the URL or the access to it") from None
