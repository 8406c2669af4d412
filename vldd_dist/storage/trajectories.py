"""Trajectories: one object for each tower and snapshot, stored by content, so that equal snapshots are stored once."""

import re
from collections import OrderedDict

from torch import Tensor

from vldd_dist.storage import tensors
from vldd_dist.storage.manifests import ObjectInfo
from vldd_dist.storage.units import UnitReader, UnitWriter

_NAME = re.compile(r"^epoch-(\d{4})/(image|text)\.safetensors$")


def write_snapshot(writer: UnitWriter, epoch: int, tower: str, named: dict[str, Tensor]) -> tuple[str, ObjectInfo]:
    """Store one tower's trainable parameters after `epoch` epochs; adopt the result under its name to list it."""
    return f"epoch-{epoch:04d}/{tower}.safetensors", writer.put_blob(tensors.encode(named))


class Trajectory:
    """An expert's snapshots, read when asked for and kept in memory up to `cache_bytes`."""

    def __init__(self, reader: UnitReader, cache_bytes: int = 2 << 30) -> None:
        self.reader, self.cache_bytes = reader, cache_bytes
        self._cache: OrderedDict[tuple[int, str], dict[str, Tensor]] = OrderedDict()
        self._held = 0

    @property
    def epochs(self) -> list[int]:
        """Epochs with a snapshot, ascending."""
        matches = (_NAME.match(name) for name in self.reader.manifest.objects)
        return sorted({int(match[1]) for match in matches if match})

    def snapshot(self, epoch: int, tower: str) -> dict[str, Tensor]:
        """Parameters of one tower by name; the tensors are shared with the cache: do not write to them."""
        key = (epoch, tower)
        if key not in self._cache:
            name = f"epoch-{epoch:04d}/{tower}.safetensors"
            loaded = tensors.decode(self.reader.read(name), self.reader.url(name))
            self._cache[key] = loaded
            self._held += _bytes(loaded)
            while self._held > self.cache_bytes and len(self._cache) > 1:
                self._held -= _bytes(self._cache.popitem(last=False)[1])
        self._cache.move_to_end(key)
        return self._cache[key]


def _bytes(named: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in named.values())
