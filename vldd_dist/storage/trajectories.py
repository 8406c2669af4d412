"""Trajectories: one object for each tower and snapshot, stored by content, so that equal snapshots are stored once."""

import re
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from vldd_dist.storage import tensors
from vldd_dist.storage.manifests import ObjectInfo
from vldd_dist.storage.units import UnitReader, UnitWriter

_NAME = re.compile(r"^epoch-(\d{4})/(image|text)\.safetensors$")


def write_snapshot(writer: UnitWriter, epoch: int, tower: str, named: dict[str, Tensor]) -> tuple[str, ObjectInfo]:
    """Store one tower's trainable parameters after `epoch` epochs; adopt the result under its name to list it."""
    return f"epoch-{epoch:04d}/{tower}.safetensors", writer.put_blob(tensors.encode(named))


class SnapshotCache:
    """Decoded snapshots of one process, least recently used dropped first beyond `limit_bytes`."""

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self.held: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self.held_bytes = 0

    def get(self, digest: str, load: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The snapshot of this content, loaded unless held."""
        if digest not in self.held:
            self.held[digest] = load()
            self.held_bytes += _bytes(self.held[digest])
        self.held.move_to_end(digest)
        while self.held_bytes > self.limit_bytes and len(self.held) > 1:
            self.held_bytes -= _bytes(self.held.popitem(last=False)[1])
        return self.held[digest]


class Trajectory:
    """An expert's snapshots, read when asked for; several trajectories may share a cache."""

    def __init__(self, reader: UnitReader, cache: SnapshotCache) -> None:
        self.reader, self.cache = reader, cache

    @property
    def epochs(self) -> list[int]:
        """Epochs with a snapshot, ascending."""
        matches = (_NAME.match(name) for name in self.reader.manifest.objects)
        return sorted({int(match[1]) for match in matches if match})

    def snapshot(self, epoch: int, tower: str) -> dict[str, Tensor]:
        """Parameters of one tower by name; the tensors are shared with the cache: do not write to them."""
        name = f"epoch-{epoch:04d}/{tower}.safetensors"
        return self.cache.get(
            self.reader.info(name).sha256, lambda: tensors.decode(self.reader.read(name), self.reader.url(name))
        )


def _bytes(named: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in named.values())
