"""A prepared data set in the store."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from vldd_dist.artifacts.units import UnitReader, kept_readers
from vldd_dist.data.facts import DatasetFacts
from vldd_dist.data.images import decode, to_tensor
from vldd_dist.data.prepared.fingerprints import read_fingerprints
from vldd_dist.data.prepared.image_lines import ImageLine, read_lines
from vldd_dist.data.prepared.shard_index import INDEX, SHARD_READERS, Shard, SplitInfo, decode_index
from vldd_dist.in_order import batched, in_order


@dataclass(frozen=True)
class Picked:
    """Images chosen by their index.

    Attributes:
        images: (M, 3, H, W) uint8.
        captions: all captions of each image.
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

    def pixels(self) -> Tensor:
        """The decoded image, (3, H, W) uint8."""
        return to_tensor(decode(self.data, self.key))


def encoded_images(group: UnitReader, shard: str, first: int = 0) -> Iterator[EncodedImage]:
    """The images of a shard in order, encoded and verified.

    Args:
        group: the unit that holds the shard.
        shard: the shard's name.
        first: the first image's index.
    """
    data = memoryview(group.read(f"{shard}.tar"))
    for position, line in enumerate(read_lines(group, shard)):
        yield EncodedImage(first + position, line.key, bytes(data[line.start : line.start + line.size]))


def decoded_batches(images: Iterable[EncodedImage], size: int) -> Iterator[Tensor]:
    """The images in batches (b, 3, H, W) uint8 of this size, the last of which may be smaller. Threads, as many as torch uses,
    decode a batch while the one before is used."""
    with ThreadPoolExecutor(torch.get_num_threads()) as decoders:

        def decoded(batch: list[EncodedImage]) -> Tensor:
            return torch.stack(list(decoders.map(EncodedImage.pixels, batch)))

        with closing(in_order(decoded, batched(images, size), threads=1, ahead=1)) as batches:
            yield from batches


class Dataset:
    """The splits train, val and test of a dataset unit."""

    def __init__(self, reader: UnitReader) -> None:
        self.reader = reader
        self.facts = reader.facts_as(DatasetFacts)
        self.image_size = self.facts.image_size
        self._group = kept_readers(reader.store, "shard_group")

    @cached_property
    def splits(self) -> dict[str, SplitInfo]:
        return decode_index(self.reader.read(INDEX))

    def lines(self, shard: Shard) -> list[ImageLine]:
        """Keys and captions of the shard's images, read without the images."""
        return read_lines(self._group(shard.group), shard.name)

    def lines_of(self, shards: Iterable[Shard]) -> Iterator[list[ImageLine]]:
        """`lines` of each of these shards, in order. The next shards are read meanwhile."""
        return in_order(self.lines, shards, threads=SHARD_READERS, ahead=SHARD_READERS)

    def read_shard(self, shard: Shard) -> list[EncodedImage]:
        """The shard's images in order, encoded and verified."""
        return list(encoded_images(self._group(shard.group), shard.name, shard.first))

    def read_shards(self, shards: Iterable[Shard]) -> Iterator[list[EncodedImage]]:
        """`read_shard` of each of these shards, in order. The next shards are read meanwhile."""
        return in_order(self.read_shard, shards, threads=SHARD_READERS, ahead=SHARD_READERS)

    def iterate(self, split: str) -> Iterator[EncodedImage]:
        """Images in shard order."""
        for images in self.read_shards(self.splits[split].shards):
            yield from images

    def captions(self, split: str) -> list[list[str]]:
        """The captions of each image of a split, read without the images."""
        return [line.captions for lines in self.lines_of(self.splits[split].shards) for line in lines]

    def content(self, split: str) -> str:
        """A sha256 of the images of a split, as they are in the source, and of their captions. It is the same whatever the
        size of the prepared images, except for a source that draws its images in this size."""
        shards, digest = self.splits[split].shards, sha256()
        for group in dict.fromkeys(shard.group for shard in shards):
            digest.update(read_fingerprints(self._group(group), split)["images"].numpy().tobytes())
        digest.update(json.dumps(self.captions(split)).encode())
        return digest.hexdigest()

    def images(self, split: str) -> Tensor:
        """All images of a split, (N, 3, H, W) uint8, decoded in as many threads as torch uses."""
        pixels = torch.empty(self.splits[split].images, 3, self.image_size, self.image_size, dtype=torch.uint8)

        def decode_into(image: EncodedImage) -> None:
            pixels[image.index] = image.pixels()

        threads = torch.get_num_threads()
        for _ in in_order(decode_into, self.iterate(split), threads=threads, ahead=2 * threads):
            pass
        return pixels

    def pick(self, split: str, indices: list[int]) -> Picked:
        """The images with these indices, in this order. Only their own bytes are read from the shards."""

        def pick_from(shard: Shard, positions: list[int]) -> list[tuple[Tensor, list[str], str]]:
            all_lines = self.lines(shard)
            lines = [all_lines[indices[position] - shard.first] for position in positions]
            ranges = [(line.start, line.start + line.size) for line in lines]
            encoded = self._group(shard.group).read_ranges(f"{shard.name}.tar", ranges)
            return [
                (to_tensor(decode(data, line.key)), line.captions, line.key) for line, data in zip(lines, encoded, strict=True)
            ]

        rows: list[tuple[Tensor, list[str], str] | None] = [None] * len(indices)
        found = self.splits[split].shards_with(indices)
        picked = in_order(lambda one: pick_from(*one), found, threads=SHARD_READERS, ahead=SHARD_READERS)
        for (_, positions), of_shard in zip(found, picked, strict=True):
            for position, row in zip(positions, of_shard, strict=True):
                rows[position] = row
        images, captions, keys = zip(*(row for row in rows if row is not None), strict=True)
        return Picked(torch.stack(images), list(captions), list(keys))
