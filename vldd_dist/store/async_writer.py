"""Writing to the store in background threads while training goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self


class AsyncWriter:
    """Runs functions in threads, at most `at_once` of them; `submit` waits while that many are running.

    An exception of a function is raised by the next `submit` or at the end of the `with` block, so nothing is committed after
    a failure. With `at_once` 1 the functions run in the order of their submission, and when the process is killed only the
    running function and those after it are lost.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._pool = ThreadPoolExecutor(at_once)
        self._at_once = at_once
        self._pending: deque[Future[Any]] = deque()

    def submit(self, work: Callable[[], Any]) -> None:
        """Start a function, or wait until it can start. Raises what an earlier function raised."""
        while len(self._pending) >= self._at_once or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work))

    def finish(self) -> None:
        """Wait for all functions. Raises what one of them raised."""
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
