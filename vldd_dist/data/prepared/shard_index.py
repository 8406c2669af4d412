"""The index of a prepared data set: the shards of each split, and the units that hold them."""

import json
from dataclasses import dataclass
from typing import Any

INDEX = "shards.json"
# Number of shards that are read at the same time where a split is read in order: a store answers after tens of milliseconds.
SHARD_READERS = 4


@dataclass(frozen=True)
class Shard:
    """A shard of a split.

    Attributes:
        group: id of the `shard_group` unit that holds it.
        name: name of its objects in that unit, without extension.
        images, captions: numbers of them.
        first: index of its first image in the split.
        sha256: of the tar.
    """

    group: str
    name: str
    images: int
    captions: int
    first: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """A split's shards in order, and their totals."""

    shards: list[Shard]
    images: int
    captions: int

    @classmethod
    def of(cls, shards: list[Shard]) -> "SplitInfo":
        return cls(shards, sum(shard.images for shard in shards), sum(shard.captions for shard in shards))

    def shards_with(self, indices: list[int]) -> list[tuple[Shard, list[int]]]:
        """The shards that hold these images, in order, each with the positions in `indices` of its images."""
        positions = sorted(range(len(indices)), key=lambda position: indices[position])
        result: list[tuple[Shard, list[int]]] = []
        shards = iter(self.shards)
        shard = None
        for position in positions:
            while shard is None or indices[position] >= shard.first + shard.images:
                shard = next(shards)
            if not result or result[-1][0] is not shard:
                result.append((shard, []))
            result[-1][1].append(position)
        return result


def encode_index(splits: dict[str, SplitInfo]) -> bytes:
    tree = {split: [_tree(shard) for shard in info.shards] for split, info in splits.items()}
    return json.dumps(tree, separators=(",", ":")).encode()


def decode_index(data: bytes) -> dict[str, SplitInfo]:
    return {split: SplitInfo.of(_shards(entries)) for split, entries in json.loads(data).items()}


def _tree(shard: Shard) -> dict[str, Any]:
    return {name: value for name, value in vars(shard).items() if name != "first"}


def _shards(entries: list[dict[str, Any]]) -> list[Shard]:
    shards, first = [], 0
    for entry in entries:
        shards.append(Shard(**entry, first=first))
        first += entry["images"]
    return shards
