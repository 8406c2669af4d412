"""Storing beside the work: uploads run in threads while training goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self


class AsyncWriter:
    """Runs what it is given in threads, at most `at_once` pieces; a caller who is further ahead waits.

    A piece's failure is raised at the next `submit`, or at the end of the `with`, so nothing is committed after it.
    With `at_once` 1 the pieces run in order, and a killed process loses one piece and what came after it.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._pool = ThreadPoolExecutor(at_once)
        self._at_once = at_once
        self._pending: deque[Future[Any]] = deque()

    def submit(self, work: Callable[[], Any]) -> None:
        """Start the work, or wait until it can start. Raises what an earlier piece raised."""
        while len(self._pending) >= self._at_once or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work))

    def finish(self) -> None:
        """Wait for all of it. Raises what a piece raised."""
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._pool.shutdown(cancel_futures=True)
