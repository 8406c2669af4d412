"""Decoded objects of named tensors (snapshots of towers, embeddings, features) in memory, for all readers of a process."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

PARALLEL_PREFETCHES = 4

NamedTensors = dict[str, Tensor]


class TensorCache:
    """Objects of named tensors by digest, safe for several threads. If they need more than `limit_bytes`, the least recently
    used are dropped; the newest stays whatever its size."""

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self._objects: OrderedDict[str, Future[NamedTensors]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(PARALLEL_PREFETCHES)

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, digest: str, load: Callable[[], NamedTensors]) -> NamedTensors:
        """The object with this digest. If it is neither in memory nor being loaded, `load` is called in this thread."""
        future, is_new = self._reserved(digest)
        if is_new:
            _run(future, load)
        tensors = future.result()
        self._drop_oldest()
        return tensors

    def prefetch(self, digest: str, load: Callable[[], NamedTensors]) -> Future[NamedTensors]:
        """Start loading an object in a thread. A failure is not kept: the next call loads again."""
        future, is_new = self._reserved(digest)
        if is_new:
            self._pool.submit(_run, future, load)
        return future

    def _reserved(self, digest: str) -> tuple[Future[NamedTensors], bool]:
        """The future of an object, and whether it is new, so that the caller has to load the object."""
        with self._lock:
            future = self._objects.get(digest)
            is_new = future is None or (future.done() and future.exception() is not None)
            if future is None or is_new:
                future = self._objects[digest] = Future()
            self._objects.move_to_end(digest)
            return future, is_new

    def _drop_oldest(self) -> None:
        with self._lock:
            sizes = {
                digest: _bytes(future.result())
                for digest, future in self._objects.items()
                if future.done() and future.exception() is None
            }
            total = sum(sizes.values())
            for digest, size in list(sizes.items())[:-1]:
                if total <= self.limit_bytes:
                    return
                del self._objects[digest]
                total -= size


def _run(future: Future[NamedTensors], load: Callable[[], NamedTensors]) -> None:
    try:
        future.set_result(load())
    except BaseException as error:
        # Also an interrupt: otherwise other threads would wait for this object forever.
        future.set_exception(error)


def _bytes(named: NamedTensors) -> int:
    return sum(tensor.nbytes for tensor in named.values())
