"""Streaming a split for training: every picture once an epoch, in an order that only (seed, epoch, shard list) decides.

Shards are permuted; a window of consecutive ones is pooled and its pictures permuted. Readers fetch shards ahead in
threads, decoding runs in threads too (both leave Python's lock), and neither number can change the order.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from vldd_dist.data.augment import augment as augment_picture
from vldd_dist.data.dataset import Dataset, EncodedPicture, Shard
from vldd_dist.data.images import decode, to_picture, to_tensor
from vldd_dist.errors import ConfigError
from vldd_dist.seeding import numpy_generator
from vldd_dist.settings import AugmentSettings

# Shards whose pictures are mixed with one another: encoded, so a window is small beside a model.
WINDOW_SHARDS = 4
BATCHES_AHEAD = 2

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class PairBatch:
    """A batch, or a rank's rows of it.

    Attributes:
        images: (b, 3, H, W) uint8, augmented.
        captions: one for each picture, drawn by (seed, epoch, picture).
        indices: (B,) int64, pictures of the whole batch, counted in shard order.
        rows: [start, stop) of the batch that are here.
    """

    images: Tensor
    captions: list[str]
    indices: Tensor
    rows: tuple[int, int]


class DecodedCache:
    """Decoded pictures of one split kept between epochs, when the whole split fits into `limit_mib`."""

    def __init__(self, limit_mib: int) -> None:
        self.limit_bytes = limit_mib << 20
        self.pictures: dict[int, tuple[Tensor, list[str]]] = {}

    def fits(self, images: int, image_size: int) -> bool:
        return images * 3 * image_size**2 <= self.limit_bytes


class EpochStream:
    """One epoch as an iterable of `PairBatch`; the last batch may be smaller.

    Args:
        rows: from the size of a batch to the rows [start, stop) of it that are decoded here.

    Raises:
        ConfigError: more readers than shards.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        seed: int,
        epoch: int,
        batch_size: int,
        augment: AugmentSettings | None,
        readers: int,
        cache: DecodedCache,
        rows: Callable[[int], tuple[int, int]] = lambda size: (0, size),
    ) -> None:
        self.dataset, self.info, self.seed, self.epoch = dataset, dataset.splits[split], seed, epoch
        self.batch_size, self.augment, self.readers, self.rows = batch_size, augment, readers, rows
        self.cache = cache if cache.fits(self.info.images, dataset.image_size) else None
        if readers > len(self.info.shards):
            raise ConfigError(
                f"experts.readers ({readers}) is more than the shards of the {split} split ({len(self.info.shards)}): "
                "lower it, or data.shard_images for more shards"
            )

    def __iter__(self) -> Iterator[PairBatch]:
        if self.cache is not None and len(self.cache.pictures) == self.info.images:
            yield from self._batches(self._order_of(self._windows_by_index()), self._from_cache, lambda index: index)
            return
        with ThreadPoolExecutor(self.readers) as readers:
            read = _ahead(readers, self.dataset.read_shard, iter(self._shard_order()), self.readers)
            windows = ([picture for shard in window for picture in shard] for window in _batched(read, WINDOW_SHARDS))
            yield from self._batches(self._order_of(windows), self._decode, lambda picture: picture.index)

    def _shard_order(self) -> list[Shard]:
        order = numpy_generator(self.seed, "shards", self.epoch).permutation(len(self.info.shards))
        return [self.info.shards[position] for position in order]

    def _windows_by_index(self) -> Iterator[list[int]]:
        for window in _batched(self._shard_order(), WINDOW_SHARDS):
            yield [index for shard in window for index in range(shard.first, shard.first + shard.images)]

    def _order_of(self, windows: Iterator[list[In]]) -> Iterator[In]:
        for number, window in enumerate(windows):
            for position in numpy_generator(self.seed, "window", self.epoch, number).permutation(len(window)):
                yield window[position]

    def _batches(
        self, ordered: Iterator[In], load: Callable[[In], tuple[Tensor, str]], index_of: Callable[[In], int]
    ) -> Iterator[PairBatch]:
        workers = max(1, torch.get_num_threads(), min(4, (os.cpu_count() or 1) // 2))
        with ThreadPoolExecutor(workers) as decoders:

            def begin(group: list[In]) -> tuple[list[int], list[Future[tuple[Tensor, str]]]]:
                here = group[slice(*self.rows(len(group)))]
                return [index_of(item) for item in group], [decoders.submit(load, item) for item in here]

            for indices, pending in _looked_ahead(map(begin, _batched(ordered, self.batch_size)), BATCHES_AHEAD):
                images, captions = zip(*(future.result() for future in pending), strict=True)
                yield PairBatch(torch.stack(images), list(captions), torch.tensor(indices), self.rows(len(indices)))

    def _decode(self, picture: EncodedPicture) -> tuple[Tensor, str]:
        image = decode(picture.data, picture.key)
        if self.cache is not None:
            self.cache.pictures[picture.index] = (to_tensor(image), picture.captions)
        return self._finish(picture.index, to_tensor(image), picture.captions)

    def _from_cache(self, index: int) -> tuple[Tensor, str]:
        assert self.cache is not None
        return self._finish(index, *self.cache.pictures[index])

    def _finish(self, index: int, image: Tensor, captions: list[str]) -> tuple[Tensor, str]:
        generator = numpy_generator(self.seed, "picture", self.epoch, index)
        caption = captions[generator.integers(len(captions))]
        if self.augment is not None:
            image = to_tensor(augment_picture(to_picture(image), self.augment, generator))
        return image, caption


def _batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def _ahead(pool: ThreadPoolExecutor, function: Callable[[In], Out], inputs: Iterator[In], depth: int) -> Iterator[Out]:
    """Results in the order of the inputs, at most `depth` computed ahead."""
    pending: deque[Future[Out]] = deque(pool.submit(function, item) for item in islice(inputs, depth))
    while pending:
        done = pending.popleft().result()
        pending.extend(pool.submit(function, item) for item in islice(inputs, 1))
        yield done


def _looked_ahead(items: Iterator[Out], depth: int) -> Iterator[Out]:
    """The same items, `depth` of them taken before the first is given."""
    waiting = deque(islice(items, depth))
    while waiting:
        waiting.extend(islice(items, 1))
        yield waiting.popleft()
