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
    used are dropped; the newest stays whatever its size, and what was prefetched stays until a `get` has returned it."""

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self._objects: OrderedDict[str, Future[NamedTensors]] = OrderedDict()
        # The sizes of those that were prefetched and not returned by `get` yet, by digest.
        self._awaited: dict[str, int] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(PARALLEL_PREFETCHES)

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, digest: str, load: Callable[[], NamedTensors]) -> NamedTensors:
        """The object with this digest. If it is neither in memory nor being loaded, `load` is called in this thread."""
        with self._lock:
            future, is_new = self._reserved(digest)
        if is_new:
            _run(future, load)
        try:
            tensors = future.result()
        finally:
            with self._lock:
                self._awaited.pop(digest, None)
        self._drop_oldest()
        return tensors

    def prefetch(self, digest: str, size: int, load: Callable[[], NamedTensors]) -> Future[NamedTensors] | None:
        """Start loading an object in a thread. A failure is not kept: the next call loads again.

        Args:
            size: bytes of the object, or nearly.

        Returns:
            None if nothing is loaded, because with all objects that are awaited it would exceed the limit.
        """
        with self._lock:
            awaited = sum(size for other, size in self._awaited.items() if self._holds(other))
            if not self._holds(digest) and awaited + size > self.limit_bytes:
                return None
            future, is_new = self._reserved(digest)
            if is_new:
                self._awaited[digest] = size
        if is_new:
            self._pool.submit(_run, future, load)
        return future

    def _holds(self, digest: str) -> bool:
        """Whether an object is in memory or being loaded."""
        future = self._objects.get(digest)
        return future is not None and not (future.done() and future.exception() is not None)

    def _reserved(self, digest: str) -> tuple[Future[NamedTensors], bool]:
        """The future of an object, and whether it is new, so that the caller has to load the object. Needs the lock."""
        is_new = not self._holds(digest)
        if is_new:
            self._objects[digest] = Future()
        self._objects.move_to_end(digest)
        return self._objects[digest], is_new

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
                if digest in self._awaited:
                    continue
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
