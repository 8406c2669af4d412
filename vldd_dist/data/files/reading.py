"""Errors of reading a source's files as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from vldd_dist.errors import DataError, MissingData, message_of
from vldd_dist.store.user_files.reachability import check_reachable


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns any exception of the `with` block (OSError, unknown scheme, missing credentials) into DataError, that of a missing
    local file into MissingData; except what `check_reachable` raises for faults of the network or the machine.
    A DataError is a sentence already, and passes.

    Args:
        what: the beginning of the sentence, with the path or URL.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        check_reachable(what, error)
        location = "path" if "://" not in what or "file://" in what else "URL"
        reason = f"{what} cannot be read ({message_of(error)})"
        if location == "path" and isinstance(error, FileNotFoundError | NotADirectoryError):
            raise MissingData(f"{reason}: correct the path") from None
        raise DataError(f"{reason}: correct the {location} or the access to it") from None
