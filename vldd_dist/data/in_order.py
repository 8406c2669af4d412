"""Calls that wait for a disk or a server, several at once, with their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int) -> Iterator[Result]:
    """As `map`, in so many threads. What a call raises is raised in its turn.

    Args:
        ahead: items that are taken, and results that are held, before the first of them is asked for.
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
