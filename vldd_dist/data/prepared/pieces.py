"""Tensors aligned with the shards of a data set: one safetensors object (a piece) per shard, one unit per group of shards.

The index unit has the object GROUPS, a JSON mapping: id of a `shard_group` unit -> id of the unit with its pieces.
"""

import json
from collections import OrderedDict
from functools import lru_cache
from threading import Lock

from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.prepared.shard_index import Shard

GROUPS = "groups.json"
CACHE_BYTES = 256 << 20
OPEN_GROUPS = 64

Piece = dict[str, Tensor]


def encode_groups(unit_of: dict[str, str]) -> bytes:
    """The object GROUPS, from a mapping from the id of each `shard_group` unit to the id of the unit with its pieces."""
    return json.dumps(unit_of).encode()


class Pieces:
    """The pieces of all shards, read one at a time. The most recently used ones stay in memory.

    Args:
        index: the index unit.
        kind: kind of the units that hold the pieces.
    """

    def __init__(self, index: UnitReader, kind: str, cache_bytes: int = CACHE_BYTES) -> None:
        self._unit_of: dict[str, str] = json.loads(index.read(GROUPS))
        self._reader = lru_cache(OPEN_GROUPS)(lambda unit: UnitReader(index.store, kind, unit))
        self._cache: OrderedDict[tuple[str, str], Piece] = OrderedDict()
        self._cache_bytes, self._held, self._lock = cache_bytes, 0, Lock()

    def of(self, shard: Shard) -> Piece:
        """The tensors of a shard. They are shared and must not be changed."""
        key = shard.group, shard.name
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        reader, name = self._reader(self._unit_of[shard.group]), f"{shard.name}.safetensors"
        piece = tensors.decode(reader.read(name), reader.url(name))
        with self._lock:
            if key not in self._cache:
                self._cache[key] = piece
                self._held += _bytes(piece)
            # The newest piece stays in memory whatever its size.
            while self._held > self._cache_bytes and len(self._cache) > 1:
                self._held -= _bytes(self._cache.popitem(last=False)[1])
        return piece


def _bytes(piece: Piece) -> int:
    return sum(tensor.nbytes for tensor in piece.values())
