"""Iterating in order: over the results of calls that wait for a disk or a server, in parallel; and over items in groups."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Like `map`, in this many threads. A call's exception is raised when its result is due. Closing the generator waits for
    running calls.

    Args:
        ahead: number of calls that are started, and of results that are held, ahead of the one that is returned.
    """
    pool, waiting, rest = ThreadPoolExecutor(threads), deque[Future[Result]](), iter(items)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(rest, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of this size, of which the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
