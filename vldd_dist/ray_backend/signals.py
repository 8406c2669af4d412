"""Catching the signals that stop a run or a task."""

import signal
from typing import Self


class CaughtSignals:
    """Within its `with` block, these signals are caught and only recorded. To be made in the main thread.

    An exception that a signal handler raised could get lost in a callback that it interrupts, or end a step halfway. The code
    inside the block polls `any` instead.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._received: list[int] = []

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
            signal.signal(number, lambda received, frame: self._received.append(received))

    def any(self) -> bool:
        """Whether one of the signals was received since the block was entered."""
        return bool(self._received)
