"""A prepared dataset in the store."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.image_cache import DecodedPictures
from vldd_dist.data.images import decode, to_tensor
from vldd_dist.data.shards import image_of, samples_of
from vldd_dist.store.node_cache import node_cache


@dataclass(frozen=True)
class Shard:
    """One tar: its name in the unit, how many pictures it holds, and the index of its first in the split."""

    name: str
    images: int
    first: int


@dataclass(frozen=True)
class SplitInfo:
    """What the manifest says of a split."""

    shards: list[Shard]
    images: int
    captions: int


@dataclass(frozen=True)
class Split:
    """Pictures decoded.

    Attributes:
        images: (N, 3, H, W) uint8.
        captions: of each picture.
        keys: of each picture.
    """

    images: Tensor
    captions: list[list[str]]
    keys: list[str]


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as it lies in its shard. `index` counts pictures of the split in shard order."""

    index: int
    key: str
    data: bytes
    captions: list[str]


class Dataset:
    """The splits train, val and test of a dataset unit."""

    def __init__(self, reader: UnitReader) -> None:
        self.reader = reader
        self.facts: dict[str, Any] = reader.facts
        self.image_size: int = self.facts["image_size"]

    @cached_property
    def splits(self) -> dict[str, SplitInfo]:
        return {split: self._split_info(facts) for split, facts in self.facts["splits"].items()}

    def _split_info(self, facts: dict[str, Any]) -> SplitInfo:
        shards, first = [], 0
        for entry in facts["shards"]:
            shards.append(Shard(entry["name"], entry["images"], first))
            first += entry["images"]
        return SplitInfo(shards, facts["images"], facts["captions"])

    def read_shard(self, shard: Shard) -> list[EncodedPicture]:
        """The shard's pictures in order, encoded; its bytes verified."""
        url = self.reader.url(shard.name)
        pictures = []
        for position, sample in enumerate(samples_of(url, io.BytesIO(self.reader.read(shard.name)))):
            image, captions = image_of(sample), json.loads(sample["json"])["captions"]
            assert image is not None, f"{url}: verified, so prepared by us"
            pictures.append(EncodedPicture(shard.first + position, sample["__key__"], image, captions))
        return pictures

    def iterate(self, split: str) -> Iterator[EncodedPicture]:
        """Pictures in shard order, one shard in memory."""
        for shard in self.splits[split].shards:
            yield from self.read_shard(shard)

    def load(self, split: str) -> Split:
        """The whole split, decoded."""
        return _decoded(list(self.iterate(split)))

    def pick(self, split: str, indices: list[int]) -> Split:
        """Only these pictures, in this order; reads only their shards."""
        wanted = set(indices)
        found: dict[int, EncodedPicture] = {}
        for shard in self.splits[split].shards:
            if wanted & set(range(shard.first, shard.first + shard.images)):
                found |= {picture.index: picture for picture in self.read_shard(shard) if picture.index in wanted}
        return _decoded([found[index] for index in indices])

    def decoded(self, split: str, limit_bytes: int) -> DecodedPictures | None:
        """Where the node keeps the split's pictures once they are decoded; none where they take more than the limit."""
        # Named by what the shards hold: a unit's id says what was asked for, and another store may have another answer.
        info = self.splits[split]
        content = sha256("".join(self.reader.info(shard.name).sha256 for shard in info.shards).encode()).hexdigest()
        return DecodedPictures.open(node_cache(), content, info.images, self.image_size, limit_bytes)

    def captions(self, split: str) -> list[list[str]]:
        """Captions of each picture, nothing decoded."""
        return [picture.captions for picture in self.iterate(split)]

    def distinct_captions(self, split: str) -> list[str]:
        """Every distinct caption of one split, in the order of first appearance. What is called training (the mean and spread
        of a noise start, nearest captions) takes `embeddings.restricted_to(dataset.distinct_captions("train"))`."""
        return list(dict.fromkeys(caption for given in self.captions(split) for caption in given))

    def all_captions(self) -> list[str]:
        """Every distinct caption of all splits, in the order of first appearance: what has to be embedded."""
        return list(dict.fromkeys(caption for split in self.splits for caption in self.distinct_captions(split)))


def _decoded(pictures: list[EncodedPicture]) -> Split:
    images = torch.stack([to_tensor(decode(picture.data, picture.key)) for picture in pictures])
    return Split(images, [picture.captions for picture in pictures], [picture.key for picture in pictures])
