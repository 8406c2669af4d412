"""Decoded snapshots in memory, shared by the trajectories that one process reads."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

PARALLEL_PREFETCHES = 4

# Parameters of one tower by name.
Snapshot = dict[str, Tensor]


class SnapshotCache:
    """Snapshots by digest, safe for several threads. Above `limit_bytes` the least recently used are dropped."""

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[str, Future[Snapshot]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(PARALLEL_PREFETCHES)

    def __len__(self) -> int:
        return len(self._held)

    def get(self, digest: str, load: Callable[[], Snapshot]) -> Snapshot:
        """The snapshot with this digest. `load` is called unless it is in memory or being loaded."""
        snapshot = self.prefetch(digest, load).result()
        self._drop_oldest()
        return snapshot

    def prefetch(self, digest: str, load: Callable[[], Snapshot]) -> Future[Snapshot]:
        """Start loading in a thread, as `get` does. A failed load is not kept: the next caller tries again."""
        with self._lock:
            future = self._held.get(digest)
            if future is None or (future.done() and future.exception() is not None):
                future = self._held[digest] = self._pool.submit(load)
            self._held.move_to_end(digest)
            return future

    def _drop_oldest(self) -> None:
        with self._lock:
            sizes = {
                digest: _bytes(future.result())
                for digest, future in self._held.items()
                if future.done() and future.exception() is None
            }
            total = sum(sizes.values())
            for digest, size in list(sizes.items())[:-1]:
                if total <= self.limit_bytes:
                    return
                del self._held[digest]
                total -= size


def _bytes(named: Snapshot) -> int:
    return sum(tensor.nbytes for tensor in named.values())
