"""Decoded snapshots in memory, shared by the trajectories that one process reads; also other objects of named tensors."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

PARALLEL_PREFETCHES = 4

# Parameters of one tower by name.
Snapshot = dict[str, Tensor]


class SnapshotCache:
    """Snapshots by digest, safe for several threads. If they need more than `limit_bytes`, the least recently used are
    dropped; the newest stays whatever its size."""

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self._snapshots: OrderedDict[str, Future[Snapshot]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(PARALLEL_PREFETCHES)

    def __len__(self) -> int:
        return len(self._snapshots)

    def get(self, digest: str, load: Callable[[], Snapshot]) -> Snapshot:
        """The snapshot with this digest. If it is neither in memory nor being loaded, `load` is called in this thread."""
        future, is_new = self._reserved(digest)
        if is_new:
            _run(future, load)
        snapshot = future.result()
        self._drop_oldest()
        return snapshot

    def prefetch(self, digest: str, load: Callable[[], Snapshot]) -> Future[Snapshot]:
        """Start loading a snapshot in a thread. A failure is not kept: the next call loads again."""
        future, is_new = self._reserved(digest)
        if is_new:
            self._pool.submit(_run, future, load)
        return future

    def _reserved(self, digest: str) -> tuple[Future[Snapshot], bool]:
        """The future of a snapshot, and whether it is new, so that the caller has to load the snapshot."""
        with self._lock:
            future = self._snapshots.get(digest)
            is_new = future is None or (future.done() and future.exception() is not None)
            if future is None or is_new:
                future = self._snapshots[digest] = Future()
            self._snapshots.move_to_end(digest)
            return future, is_new

    def _drop_oldest(self) -> None:
        with self._lock:
            sizes = {
                digest: _bytes(future.result())
                for digest, future in self._snapshots.items()
                if future.done() and future.exception() is None
            }
            total = sum(sizes.values())
            for digest, size in list(sizes.items())[:-1]:
                if total <= self.limit_bytes:
                    return
                del self._snapshots[digest]
                total -= size


def _run(future: Future[Snapshot], load: Callable[[], Snapshot]) -> None:
    try:
        future.set_result(load())
    except BaseException as error:
        # Also an interrupt: otherwise other threads would wait for this snapshot forever.
        future.set_exception(error)


def _bytes(named: Snapshot) -> int:
    return sum(tensor.nbytes for tensor in named.values())
