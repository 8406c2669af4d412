"""Trajectories: one object for each tower and snapshot, stored by content, so that equal snapshots are stored once.

A reader fetches the snapshots it asks for and no others, ahead of their use when told to, and of a snapshot only the
elements it wants: a sharded student's rank reads its own slices.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from vldd_dist.storage import tensors
from vldd_dist.storage.objects import ObjectInfo
from vldd_dist.storage.units import UnitReader, UnitWriter

PREFETCHES_AT_ONCE = 4
TOWERS = 2

_NAME = re.compile(r"^epoch-(\d{4})/(image|text)\.safetensors$")

Snapshot = dict[str, Tensor]


def write_snapshots(writer: UnitWriter, epoch: int, encoded: Mapping[str, bytes]) -> dict[str, ObjectInfo]:
    """Store the trainable parameters after `epoch` epochs, tower -> what `tensors.encode` made of them, at once.

    Returns:
        Name -> where it lies: adopt it to list it.
    """
    with ThreadPoolExecutor(TOWERS) as pool:
        infos = list(pool.map(writer.put_blob, encoded.values()))
    return {_name(epoch, tower): info for tower, info in zip(encoded, infos, strict=True)}


class SnapshotCache:
    """Decoded snapshots of one process, least recently used dropped first beyond `limit_bytes`; for several threads."""

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[str, Future[Snapshot]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(PREFETCHES_AT_ONCE)

    def __len__(self) -> int:
        return len(self._held)

    def get(self, digest: str, load: Callable[[], Snapshot]) -> Snapshot:
        """The snapshot of this content, loaded unless held or on its way."""
        snapshot = self.prefetch(digest, load).result()
        self._drop_oldest()
        return snapshot

    def prefetch(self, digest: str, load: Callable[[], Snapshot]) -> Future[Snapshot]:
        """Begin loading, unless held or on its way. A failed load is forgotten: who asks next tries again."""
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


# tower -> parameter -> elements [start, stop) of it, flattened in row-major order.
Part = Mapping[str, Mapping[str, tuple[int, int]]]


class Trajectory:
    """An expert's snapshots, read when asked for; several trajectories may share a cache.

    Args:
        part: of each snapshot only this is read, as 1-D tensors; the same for all that share the cache. None: everything.
    """

    def __init__(self, reader: UnitReader, cache: SnapshotCache, part: Part | None = None) -> None:
        self.reader, self.cache, self.part = reader, cache, part

    @property
    def epochs(self) -> list[int]:
        """Epochs with a snapshot, ascending."""
        matches = (_NAME.match(name) for name in self.reader.manifest.objects)
        return sorted({int(match[1]) for match in matches if match})

    def snapshot(self, epoch: int, tower: str) -> Snapshot:
        """Parameters of one tower by name; the tensors are shared with the cache: do not write to them."""
        name = _name(epoch, tower)
        return self.cache.get(self.reader.info(name).sha256, lambda: self._load(epoch, tower))

    def prefetch(self, epoch: int) -> None:
        """Begin to read an epoch's snapshots, for a `snapshot` to come."""
        for tower in ("image", "text"):
            name = _name(epoch, tower)
            self.cache.prefetch(self.reader.info(name).sha256, lambda tower=tower: self._load(epoch, tower))  # type: ignore[misc]

    def slices(self, epoch: int, tower: str, wanted: Mapping[str, tuple[int, int]]) -> Snapshot:
        """Elements [start, stop) of each wanted parameter, flattened in row-major order.

        Only the file's header and the blocks that hold these elements are read; nothing is kept in memory.

        Returns:
            1-D tensors by name, of the stored dtype.

        Raises:
            StoreError: the snapshot has no such parameter or element, or is damaged.
        """
        name = _name(epoch, tower)
        url, size = self.reader.url(name), self.reader.info(name).size
        (length,) = self.reader.read_ranges(name, [(0, tensors.LENGTH_BYTES)])
        end = tensors.header_end(length, size, url)
        (text,) = self.reader.read_ranges(name, [(tensors.LENGTH_BYTES, end)])
        places = tensors.parse_header(text, size - end, url)
        ranges = [tensors.element_range(places, parameter, *limits, url) for parameter, limits in wanted.items()]
        read = self.reader.read_ranges(name, [(end + start, end + stop) for start, stop in ranges])
        return {
            # A copy: the bytes are not writable.
            parameter: torch.frombuffer(bytearray(data), dtype=places[parameter].dtype) if data else torch.empty(0)
            for parameter, data in zip(wanted, read, strict=True)
        }

    def _load(self, epoch: int, tower: str) -> Snapshot:
        if self.part is not None:
            return self.slices(epoch, tower, self.part[tower])
        name = _name(epoch, tower)
        return tensors.decode(self.reader.read(name), self.reader.url(name))


def _name(epoch: int, tower: str) -> str:
    return f"epoch-{epoch:04d}/{tower}.safetensors"


def _bytes(named: Snapshot) -> int:
    return sum(tensor.nbytes for tensor in named.values())
