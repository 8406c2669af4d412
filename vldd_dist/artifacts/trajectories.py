"""Trajectories: one object for each tower and snapshot, stored by content, so that equal snapshots are stored once.

A reader fetches the snapshots it asks for and no others, ahead of their use when told to, and of a snapshot only the
elements it wants: a sharded student's rank reads its own slices.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.parts import part_name, parts_of
from vldd_dist.artifacts.units import UnitReader, UnitWriter
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import ObjectInfo

PREFETCHES_AT_ONCE = 4
TOWERS = 2

_NAME = re.compile(r"^epoch-(\d{4})/(?:image|text)\b.*\.safetensors$")

Snapshot = dict[str, Tensor]


def write_snapshots(
    writer: UnitWriter, epoch: int, encoded: Mapping[str, bytes], part: int = 0, parts: int = 1
) -> dict[str, ObjectInfo]:
    """Store the trainable parameters after `epoch` epochs, tower -> what `tensors.encode` or `encode_shards` made of them, at
    once; of several ranks each its part.

    Returns:
        Name -> where it lies: adopt it to list it.
    """
    with ThreadPoolExecutor(TOWERS) as pool:
        infos = list(pool.map(writer.put_blob, encoded.values()))
    return {part_name(_stem(epoch, tower), part, parts): info for tower, info in zip(encoded, infos, strict=True)}


def encode_shards(shards: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> bytes:
    """A rank's elements (n,) of each parameter, those of lower ranks going before; the whole shapes in the header."""
    return tensors.encode(dict(shards), {"shapes": json.dumps({name: list(shape) for name, shape in shapes.items()})})


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
        return self.cache.get(self._digest(epoch, tower), lambda: self._load(epoch, tower))

    def prefetch(self, epoch: int) -> None:
        """Begin to read an epoch's snapshots, for a `snapshot` to come."""
        for tower in ("image", "text"):
            self.cache.prefetch(self._digest(epoch, tower), lambda tower=tower: self._load(epoch, tower))  # type: ignore[misc]

    def slices(self, epoch: int, tower: str, wanted: Mapping[str, tuple[int, int]]) -> Snapshot:
        """Elements [start, stop) of each wanted parameter, flattened in row-major order.

        Only the objects' headers and the blocks that hold these elements are read; nothing is kept in memory.

        Returns:
            1-D tensors by name, of the stored dtype.

        Raises:
            StoreError: the snapshot has no such parameter or element, or is damaged.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in wanted}
        passed = dict.fromkeys(wanted, 0)
        for object_name in self._objects(epoch, tower):
            header = _Header(self.reader, object_name)
            inside = {}
            for name, (start, stop) in wanted.items():
                first, held = passed[name], header.elements(name)
                passed[name] += held
                inside[name] = max(start - first, 0), min(stop - first, held)
            overlapping = {name: limits for name, limits in inside.items() if limits[0] < limits[1]}
            for name, values in header.read(overlapping).items():
                found[name].append(values)
        for name, (start, stop) in wanted.items():
            if not 0 <= start <= stop <= passed[name]:
                source = self.reader.url(self._objects(epoch, tower)[0])
                raise StoreError(f"{source}: has no elements {start} to {stop} of {name!r}")
        return {name: torch.cat(values) if values else torch.empty(0) for name, values in found.items()}

    def _load(self, epoch: int, tower: str) -> Snapshot:
        if self.part is not None:
            return self.slices(epoch, tower, self.part[tower])
        names = self._objects(epoch, tower)
        read = [self.reader.read(name) for name in names]
        parts = [tensors.decode(data, self.reader.url(name)) for name, data in zip(names, read, strict=True)]
        if len(parts) == 1:
            return parts[0]
        shapes = json.loads(tensors.metadata(read[0])["shapes"])
        return {name: torch.cat([part[name] for part in parts]).view(shape) for name, shape in shapes.items()}

    def _objects(self, epoch: int, tower: str) -> list[str]:
        return parts_of(_stem(epoch, tower), self.reader.manifest.objects, self.reader.store.url_of(self.reader.prefix))

    def _digest(self, epoch: int, tower: str) -> str:
        return " ".join(self.reader.info(name).sha256 for name in self._objects(epoch, tower))


class _Header:
    """Where the tensors of a snapshot's object lie; reading it reads no more."""

    def __init__(self, reader: UnitReader, name: str) -> None:
        self.reader, self.name = reader, name
        self.url, size = reader.url(name), reader.info(name).size
        (length,) = reader.read_ranges(name, [(0, tensors.LENGTH_BYTES)])
        self.end = tensors.header_end(length, size, self.url)
        (text,) = reader.read_ranges(name, [(tensors.LENGTH_BYTES, self.end)])
        self.places = tensors.parse_header(text, size - self.end, self.url)

    def elements(self, parameter: str) -> int:
        return self.places[parameter].elements if parameter in self.places else 0

    def read(self, wanted: Mapping[str, tuple[int, int]]) -> Snapshot:
        """Elements [start, stop) of each, none of them empty."""
        ranges = [tensors.element_range(self.places, name, *limits, self.url) for name, limits in wanted.items()]
        read = self.reader.read_ranges(self.name, [(self.end + start, self.end + stop) for start, stop in ranges])
        return {
            # A copy: the bytes are not writable.
            name: torch.frombuffer(bytearray(data), dtype=self.places[name].dtype)
            for name, data in zip(wanted, read, strict=True)
        }


def _stem(epoch: int, tower: str) -> str:
    return f"epoch-{epoch:04d}/{tower}"


def _bytes(named: Snapshot) -> int:
    return sum(tensor.nbytes for tensor in named.values())
