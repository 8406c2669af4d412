"""Writing to the store in background threads while training continues."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self


class AsyncWriter:
    """Runs at most `at_once` functions in threads; `submit` waits while that many are running.

    An exception of a function is raised by the next `submit` or at the end of the `with` block, so that nothing is committed
    after a failure. If `at_once` is 1, the functions run in the order of their submission, so that a killed process loses only
    the running function and those after it.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._pool = ThreadPoolExecutor(at_once)
        self._at_once = at_once
        self._pending: deque[Future[Any]] = deque()

    def submit(self, work: Callable[[], Any]) -> None:
        """Start a function, waiting until it can start. Raises the exception of an earlier function."""
        while len(self._pending) >= self._at_once or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work))

    def finish(self) -> None:
        """Wait for all functions. Raises the exception of one of them."""
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
