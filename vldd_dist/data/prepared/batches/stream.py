"""Streaming a split for training. An epoch shows each training entry once: each image with one of its captions drawn at random,
or each caption with its image. The order depends only on (seed, epoch, list of shards).

The shards are permuted; then the entries of each window of consecutive shards are permuted together. Threads read the next
window's shards, with the embeddings of their captions, decode images (both release Python's global lock) and put batches
together; the numbers of threads do not affect the order. With a frozen image backbone, features are streamed instead of images.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TypeVar

import torch
from torch import Tensor

from vldd_dist.config.sections.experts import AugmentSettings, Captions
from vldd_dist.data.augment import augment as augment_image
from vldd_dist.data.images import to_pil, to_tensor
from vldd_dist.data.prepared.batches.image_cache import DecodedImages
from vldd_dist.data.prepared.dataset import Dataset, EncodedImage
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings, ShardTexts
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.errors import ConfigError
from vldd_dist.in_order import batched, in_order
from vldd_dist.seeding import numpy_generator

# Number of shards whose images are permuted together. They are encoded, so a window needs little memory compared with a model.
WINDOW_SHARDS = 4
BATCHES_AHEAD = 2

Value = TypeVar("Value")


@dataclass(frozen=True)
class PairBatch:
    """A batch, or the rows of it that a rank computes.

    Attributes:
        images: (b, 3, H, W) uint8, augmented; features (b, F) float32 if the stream is of features.
        texts: (b, D) float32, embeddings of the entries' captions; a caption is drawn by (seed, epoch, image).
        entries: (B,) int64, the entries of the whole batch: indices of images in the split or, if each caption is an entry,
            indices of captions, which are numbered in the order of the images.
    """

    images: Tensor
    texts: Tensor
    entries: Tensor


@dataclass(frozen=True)
class _Entry:
    """A training entry of a shard.

    Attributes:
        image: the encoded image, or its features.
        entry: its number, as in `PairBatch.entries`.
        position: position of the image in the shard.
        texts: the caption embeddings of the shard.
        caption: number of the caption among those of the image; None: it is drawn.
    """

    image: EncodedImage | Tensor
    entry: int
    position: int
    texts: ShardTexts
    caption: int | None


@dataclass(frozen=True)
class StreamSettings:
    """How a split is streamed.

    Attributes:
        batch_size: over all ranks.
        augment: None: images are not augmented.
        readers: number of shards that are read at the same time.
        captions: "one" caption of each image, or "all".
    """

    batch_size: int
    augment: AugmentSettings | None = None
    readers: int = 1
    captions: Captions = "one"


class EpochStream:
    """One epoch as an iterable of `PairBatch`; the last batch may be smaller.

    Args:
        images: the data set, whose images are streamed; or features, which are streamed instead of them.
        decoded: cache of the split's decoded images.
        rows: function from the size of a batch to the rows [start, stop) of it that are decoded.
        skip: number of batches at the beginning that are left out; windows that lie within them are not read.

    Raises:
        ConfigError: there are more readers than shards.
    """

    def __init__(
        self,
        embeddings: CaptionEmbeddings,
        images: Dataset | ImageFeatures,
        split: str,
        settings: StreamSettings,
        *,
        seed: int,
        epoch: int,
        decoded: DecodedImages | None = None,
        rows: Callable[[int], tuple[int, int]] = lambda size: (0, size),
        skip: int = 0,
    ) -> None:
        self.embeddings, self.images, self.split = embeddings, images, split
        self.info, self.seed, self.epoch, self.settings = embeddings.splits[split], seed, epoch, settings
        self.decoded, self.rows, self.skip = decoded, rows, skip
        # The number of each shard's first entry.
        counts = [shard.images if settings.captions == "one" else shard.captions for shard in self.info.shards]
        self.first = [0, *accumulate(counts)]
        if settings.readers > len(self.info.shards):
            raise ConfigError(
                f"experts.readers ({settings.readers}) is more than the shards of the {split} split ({len(self.info.shards)}): "
                "lower it, or lower data.shard_images for more shards"
            )

    def __iter__(self) -> Iterator[PairBatch]:
        order = numpy_generator(self.seed, "shards", self.epoch).permutation(len(self.info.shards)).tolist()
        sizes = (sum(self.first[n + 1] - self.first[n] for n in window) for window in batched(order, WINDOW_SHARDS))
        # The number of entries before each window.
        starts, skipped = [0, *accumulate(sizes)], self.skip * self.settings.batch_size
        first = bisect_right(starts, skipped) - 1
        # A whole window is read ahead, by any number of readers: training would otherwise wait for shards at each window.
        readers, ahead = self.settings.readers, max(self.settings.readers, WINDOW_SHARDS)
        # Closed, so that the threads have ended when the caller stops early.
        with closing(in_order(self._read_shard, order[first * WINDOW_SHARDS :], threads=readers, ahead=ahead)) as shards:
            windows = ([item for shard in window for item in shard] for window in batched(shards, WINDOW_SHARDS))
            yield from self._batches(islice(self._permuted(windows, first), skipped - starts[first], None))

    def _read_shard(self, number: int) -> list[_Entry]:
        shard = self.info.shards[number]
        texts = self.embeddings.of_shard(shard)
        images = self.images.read_shard(shard) if isinstance(self.images, Dataset) else self.images.of_shard(shard)
        first = self.first[number]
        if self.settings.captions == "one":
            return [_Entry(image, first + position, position, texts, None) for position, image in enumerate(images)]
        return [
            _Entry(image, first + int(texts.first[position]) + caption, position, texts, caption)
            for position, image in enumerate(images)
            for caption in range(texts.caption_count(position))
        ]

    def _permuted(self, windows: Iterator[list[Value]], first: int) -> Iterator[Value]:
        """The entries of windows from the one with number `first`, those of each window permuted."""
        for number, window in enumerate(windows, first):
            for position in numpy_generator(self.seed, "window", self.epoch, number).permutation(len(window)):
                yield window[position]

    def _batches(self, ordered: Iterator[_Entry]) -> Iterator[PairBatch]:
        workers = max(1, torch.get_num_threads(), min(4, (os.cpu_count() or 1) // 2))
        with ThreadPoolExecutor(workers) as decoders:

            def begin(group: list[_Entry]) -> tuple[list[int], Iterator[tuple[Tensor, Tensor]]]:
                entries, of_rank = [item.entry for item in group], group[slice(*self.rows(len(group)))]
                # A row of features needs no decoding, and a task for each would take longer than the row itself.
                has_images = isinstance(self.images, Dataset)
                return entries, decoders.map(self._load, of_rank) if has_images else map(self._load, of_rank)

            def finish(begun: tuple[list[int], Iterator[tuple[Tensor, Tensor]]]) -> PairBatch:
                entries, loaded = begun
                images, texts = zip(*loaded, strict=True)
                return PairBatch(torch.stack(images), torch.stack(texts), torch.tensor(entries))

            begun = map(begin, batched(ordered, self.settings.batch_size))
            with closing(in_order(finish, begun, threads=1, ahead=BATCHES_AHEAD)) as batches:
                yield from batches

    def _load(self, item: _Entry) -> tuple[Tensor, Tensor]:
        """The augmented image, or its features, and the embedding of the caption."""
        image = item.image if isinstance(item.image, Tensor) else self._decode(item.image)
        generator = numpy_generator(self.seed, "picture", self.epoch, item.entry)
        number = item.caption
        if number is None:
            number = int(generator.integers(item.texts.caption_count(item.position)))
        if self.settings.augment is not None:
            image = to_tensor(augment_image(to_pil(image), self.settings.augment, generator))
        return image, item.texts.vector(item.position, number)

    def _decode(self, encoded: EncodedImage) -> Tensor:
        if self.decoded is not None and (cached := self.decoded.get(encoded.index)) is not None:
            return cached
        image = encoded.pixels()
        if self.decoded is not None:
            self.decoded.put(encoded.index, image)
        return image
