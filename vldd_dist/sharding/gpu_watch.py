"""Notices that a rank's GPU waits for another rank that does not answer.

With NCCL no operation fails by itself then: torch's synchronous collectives only enqueue the operation, and the rank blocks
when it next reads a result. Nobody looks at the time limit of the process group.
"""

import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch

from vldd_dist.errors import message_of

# Pause between two markers, between two looks at whether the GPU has reached the last one, and between two questions of the
# thread that enqueued it. Ranks that wait for the same rank notice it within the sum, which is less than the driver's grace.
MARK_SECONDS, LOOK_SECONDS, ASK_SECONDS = 2.0, 1.0, 0.1
# How long `GpuWatch` waits for its threads when it ends: enqueueing a marker can block while the GPU is busy.
END_SECONDS = 5.0

# Enqueues a marker behind the GPU's work. Returns a function that says whether the GPU has reached it.
Mark = Callable[[], Callable[[], bool]]

logger = logging.getLogger(__name__)


class GpuWatch:
    """Calls `on_hang` if, within the `with` block, the GPU does not reach a marker for `timeout`. What a process enqueues ahead
    is seconds of work, so the GPU then waits: a collective operation before the marker has no answer from another rank.

    What a rank waits for without its GPU is not watched: the making of NCCL's connections, in the first collectives.

    Args:
        mark: enqueues the markers, and is called in another thread.
        on_hang: called once with a sentence, in another thread. It should end the process, whose main thread is blocked.
    """

    def __init__(self, mark: Mark, timeout: timedelta, on_hang: Callable[[str], None]) -> None:
        self._mark, self._timeout_seconds, self._on_hang = mark, timeout.total_seconds(), on_hang
        self._stopped = threading.Event()
        # Number of the marker that the GPU has still to reach; 0 if there is none.
        self._awaited = 0
        # Two threads, because enqueueing a marker blocks when the queue of the GPU is full.
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._set_markers, self._look)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(END_SECONDS)

    def _set_markers(self) -> None:
        for self._awaited in itertools.count(1):
            try:
                reached = self._mark()
                while not reached():
                    if self._stopped.wait(ASK_SECONDS):
                        return
            except Exception as error:
                # A GPU that fails also fails the unit's own operations, which say so.
                logger.warning("the GPU is not watched any more: %s", message_of(error))
                return
            finally:
                self._awaited = 0
            if self._stopped.wait(MARK_SECONDS):
                return

    def _look(self) -> None:
        # Looks are counted, because after a pause of the whole process the clock says nothing about the GPU.
        seen = looks = 0
        while not self._stopped.wait(LOOK_SECONDS):
            awaited = self._awaited
            looks = looks + 1 if awaited and awaited == seen else 0
            seen = awaited
            if looks * LOOK_SECONDS >= self._timeout_seconds:
                self._on_hang(
                    f"its GPU has not come to the end of its work for {self._timeout_seconds:g} s, as in a collective "
                    "operation that waits for another rank"
                )
                return


def watching(device: torch.device, timeout: timedelta, on_hang: Callable[[str], None]) -> AbstractContextManager[None]:
    """A `GpuWatch` of a CUDA device; on the CPU, whose collectives fail by themselves, a context that does nothing."""
    return GpuWatch(gpu_marks(device), timeout, on_hang) if device.type == "cuda" else nullcontext()


def gpu_marks(device: torch.device) -> Mark:
    """Markers on the default stream of a CUDA device, for which all other streams' work is waited for: the GPU writes the
    marker's number to the memory of the host. Reading it is no operation of CUDA, and the two operations that write it release
    Python's lock while they block; recording an event does not in every version of torch."""
    count = torch.zeros(1, dtype=torch.int64, device=device)
    reached = torch.zeros(1, dtype=torch.int64, pin_memory=True)
    numbers = itertools.count(1)

    def mark() -> Callable[[], bool]:
        number = next(numbers)
        count.add_(1)
        reached.copy_(count, non_blocking=True)
        return lambda: int(reached) >= number

    # Now, because CUDA loads the code of an operation at its first use, for which it may wait for all work of the GPU.
    mark()
    torch.cuda.synchronize(device)
    return mark
