"""Writing to the store in background threads while training continues."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, stop_when_event_set, wait_fixed
from tenacity.nap import sleep_using_event

from vldd_dist.errors import Outage

# How long a function is called again after an outage of the store, and the pause before each call. What it writes is in memory,
# and training goes on meanwhile.
OUTAGE_SECONDS, PAUSE_SECONDS = 600.0, 10.0


class AsyncWriter:
    """Runs at most `at_once` functions in threads; `submit` waits while that many are running.

    A function that ends with Outage is called again for `OUTAGE_SECONDS`, so it must write the same again. An exception of
    a function is raised by the next `check` or `submit` or at the end of the `with` block, so that nothing is committed after a
    failure. If `at_once` is 1, the functions run in the order of their submission, so that a killed process loses only
    the running function and those after it.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._pool = ThreadPoolExecutor(at_once)
        self._at_once = at_once
        self._pending: deque[Future[Any]] = deque()
        self._ending = threading.Event()

    def submit(self, work: Callable[[], Any]) -> None:
        """Start a function, waiting until it can start. Raises the exception of an earlier function."""
        self.check()
        while len(self._pending) >= self._at_once:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._through_outages, work))

    def check(self) -> None:
        """Raise the exception of a function that has ended with one. Called while training, it keeps the attempt from computing
        what is lost with it."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def _through_outages(self, work: Callable[[], Any]) -> Any:
        retrying = Retrying(
            retry=retry_if_exception_type(Outage),
            stop=stop_after_delay(OUTAGE_SECONDS) | stop_when_event_set(self._ending),
            wait=wait_fixed(PAUSE_SECONDS),
            sleep=sleep_using_event(self._ending),
            reraise=True,
        )
        return retrying(work)

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
            self._ending.set()
            self._pool.shutdown(cancel_futures=True)
