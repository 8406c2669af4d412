"""Tensors aligned with the shards of a data set: one safetensors object (a piece) per shard, one unit per group of shards.

The index unit has the object GROUPS, a JSON mapping: id of a `shard_group` unit -> id of the unit with its pieces.
"""

import json
from typing import Protocol

from torch import Tensor

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.units import UnitReader, kept_readers
from vldd_dist.data.prepared.shard_index import Shard

GROUPS = "groups.json"
CACHE_BYTES = 256 << 20

Piece = dict[str, Tensor]


def encode_groups(unit_of: dict[str, str]) -> bytes:
    """The object GROUPS, from a mapping from the id of each `shard_group` unit to the id of the unit with its pieces."""
    return json.dumps(unit_of).encode()


class PieceSource(Protocol):
    """The pieces of a data set's shards."""

    def of(self, shard: Shard) -> Piece:
        """The tensors of a shard. They are shared and must not be changed."""


class Pieces:
    """The pieces of all shards, read one at a time. The most recently used ones stay in memory.

    Args:
        index: the index unit.
        kind: kind of the units that hold the pieces.
    """

    def __init__(self, index: UnitReader, kind: str) -> None:
        self._unit_of: dict[str, str] = json.loads(index.read(GROUPS))
        self._reader = kept_readers(index.store, kind)
        self._cache = TensorCache(CACHE_BYTES)

    def of(self, shard: Shard) -> Piece:
        return self._cache.get(f"{shard.group}/{shard.name}", lambda: self._read(shard))

    def _read(self, shard: Shard) -> Piece:
        reader, name = self._reader(self._unit_of[shard.group]), f"{shard.name}.safetensors"
        return tensors.decode(reader.read(name), reader.url(name))
