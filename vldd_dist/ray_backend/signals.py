"""Catching the signals that stop a run or a task."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Self

# Signals that follow within this time count as one: a wrapper may pass on what the terminal has sent to all processes.
ONE_SIGNAL_SECONDS = 1.0


class CaughtSignals:
    """Within its `with` block, these signals are caught and only recorded. To be made in the main thread.

    An exception that a signal handler raised could get lost in a callback that it interrupts, or end a step halfway. The code
    inside the block polls `any` instead.

    Args:
        say: called once, by the handler of the first signal: the code inside the block may take long to poll.

    Attributes:
        end_process: whether a signal that follows the first after some time ends the process, while nothing polls.
    """

    def __init__(self, *numbers: signal.Signals, say: Callable[[], None] = lambda: None) -> None:
        self._numbers, self._say = numbers, say
        # The times at which they were received.
        self._received: list[float] = []
        self.end_process = False

    def __enter__(self) -> Self:
        self._previous = [signal.getsignal(number) for number in self._numbers]
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in zip(self._numbers, self._previous, strict=True):
            signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers again, after a library has installed its own."""
        for number in self._numbers:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received.append(time.monotonic())
        if len(self._received) == 1:
            # Python raises RuntimeError if the signal interrupted a write to the same stream; the others come from an output
            # whose reader has ended, for example `tee`, which the same Ctrl-C has reached.
            with suppress(RuntimeError, OSError, SystemExit):
                self._say()
        if self.end_process and self.again():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def any(self) -> bool:
        """Whether one of the signals was received since the block was entered."""
        return bool(self._received)

    def again(self) -> bool:
        """Whether another one was received some time after the first."""
        return self.any() and self._received[-1] - self._received[0] > ONE_SIGNAL_SECONDS
