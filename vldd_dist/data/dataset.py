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
from vldd_dist.data.image_cache import DecodedImages
from vldd_dist.data.images import decode, to_tensor
from vldd_dist.data.shards import image_of, samples_of
from vldd_dist.store.node_cache import node_cache


@dataclass(frozen=True)
class Shard:
    """One tar: its object's name in the unit, its number of images, and the index of its first image in the split."""

    name: str
    images: int
    first: int


@dataclass(frozen=True)
class SplitInfo:
    """The manifest's description of a split."""

    shards: list[Shard]
    images: int
    captions: int


@dataclass(frozen=True)
class Split:
    """The decoded images of a split, with their captions.

    Attributes:
        images: (N, 3, H, W) uint8.
        captions: the captions of each image.
        keys: the key of each image.
    """

    images: Tensor
    captions: list[list[str]]
    keys: list[str]


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image from a shard. `index` is its position in the split, in shard order."""

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

    def read_shard(self, shard: Shard) -> list[EncodedImage]:
        """The shard's images in order, encoded. The shard is verified."""
        url = self.reader.url(shard.name)
        images = []
        for position, sample in enumerate(samples_of(url, io.BytesIO(self.reader.read(shard.name)))):
            data, captions = image_of(sample), json.loads(sample["json"])["captions"]
            assert data is not None, f"{url}: a shard of a dataset unit has an image for every key"
            images.append(EncodedImage(shard.first + position, sample["__key__"], data, captions))
        return images

    def iterate(self, split: str) -> Iterator[EncodedImage]:
        """Images in shard order, with one shard in memory at a time."""
        for shard in self.splits[split].shards:
            yield from self.read_shard(shard)

    def load(self, split: str) -> Split:
        """The whole split, decoded."""
        return _decoded(list(self.iterate(split)))

    def pick(self, split: str, indices: list[int]) -> Split:
        """These images, decoded and in this order. Only the shards that hold them are read."""
        wanted = set(indices)
        found: dict[int, EncodedImage] = {}
        for shard in self.splits[split].shards:
            if wanted & set(range(shard.first, shard.first + shard.images)):
                found |= {image.index: image for image in self.read_shard(shard) if image.index in wanted}
        return _decoded([found[index] for index in indices])

    def decoded(self, split: str, limit_bytes: int) -> DecodedImages | None:
        """The node's cache of the split's decoded images; None when they would take more than `limit_bytes`."""
        # Named by the content of the shards. The unit's id would not do: other stores may hold other shards under it.
        info = self.splits[split]
        content = sha256("".join(self.reader.info(shard.name).sha256 for shard in info.shards).encode()).hexdigest()
        return DecodedImages.open(node_cache(), content, info.images, self.image_size, limit_bytes)

    def captions(self, split: str) -> list[list[str]]:
        """The captions of each image. No image is decoded."""
        return [image.captions for image in self.iterate(split)]

    def distinct_captions(self, split: str) -> list[str]:
        """The distinct captions of a split, in the order of first appearance. Use `embeddings.restricted_to` of them where only
        training captions may be used: for the statistics of a noise start, and for nearest captions."""
        return list(dict.fromkeys(caption for given in self.captions(split) for caption in given))

    def all_captions(self) -> list[str]:
        """The distinct captions of all splits, in the order of first appearance: those that are embedded."""
        return list(dict.fromkeys(caption for split in self.splits for caption in self.distinct_captions(split)))


def _decoded(encoded: list[EncodedImage]) -> Split:
    images = torch.stack([to_tensor(decode(image.data, image.key)) for image in encoded])
    return Split(images, [image.captions for image in encoded], [image.key for image in encoded])
