"""What a source of images and captions is."""

import logging
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vldd_dist.config.base import Plugin
from vldd_dist.data.images import decode
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError

logger = logging.getLogger(__name__)

# Samples that `check` reads.
CHECKED = 20
SPLITS = ("train", "val", "test")
# What other people call them; nobody uses COCO's 'restval' but for training.
SPLIT_OF = {split: split for split in SPLITS} | {"restval": "train", "validation": "val", "valid": "val", "dev": "val"}
Samples = Iterator[RawSample | UnreadableSample]


@dataclass(frozen=True)
class Part:
    """A stretch of a split that one work unit prepares.

    Attributes:
        start, stop: positions [start, stop) in the source. Each source defines what its positions count: samples, files or
            bytes, for instance.
        limit: samples at most; none: all.
        samples: how many there are, where the source knows it; for progress only.
    """

    start: int
    stop: int
    limit: int | None = None
    samples: int | None = None


class Source(Plugin):
    """A source and its settings. Fields that say where the data lie are marked `LOCATION`: `describe` tells content."""

    def own_splits(self) -> tuple[str, ...]:
        """Those of `SPLITS` that the source itself tells apart, `train` always among them. The others are taken out of `train`
        by `data.split`."""
        return SPLITS

    @abstractmethod
    def parts(self, split: str, *, limit: int | None, images: int) -> list[Part]:
        """One of its own splits, cut into parts in order.

        Args:
            limit: samples of the whole split at most; none: all.
            images: samples of a part, about.

        Raises:
            DataError: the source is not there or cannot be read.
        """

    @abstractmethod
    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        """The samples of a part of one of its own splits in a fixed order, not yet resized.

        Args:
            image_size: pixels, for sources that draw their images.
            seed: the experiment's, for the same.

        Raises:
            DataError: naming what is missing or damaged and cannot be counted as a single bad sample.
        """

    @abstractmethod
    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """What the samples of a part depend on beside the settings, cheaply: part of the hash that names the prepared part. It
        is called for every part: what costs time is computed once (`functools.cached_property`).

        Raises:
            DataError: the source is not there.
        """

    def stated_count(self, split: str, limit: int | None) -> int | None:
        """Samples of a split, as far as the description alone tells; nothing is opened."""
        return limit

    def count(self, split: str, limit: int | None) -> int | None:
        """Samples of a split, where an index tells it without reading them."""
        return self.stated_count(split, limit)

    def check(self, split: str) -> None:
        """Read the first samples of one of its own splits, before anything runs.

        Raises:
            DataError: all of them are unreadable, or the split has none. Of some unreadable ones a warning tells.
        """
        parts = self.parts(split, limit=CHECKED, images=CHECKED)
        samples = (sample for part in parts for sample in self.samples(split, part, image_size=64, seed=0))
        errors = [error_of(sample) for sample in islice(samples, CHECKED)]
        if not errors:
            raise DataError(f"data.source: the {split} split has no samples: correct data.source")
        bad = [error for error in errors if error is not None]
        if len(bad) == len(errors):
            raise DataError(f"{bad[0]} (of the first {len(errors)} samples of {split} none can be read)")
        if bad:
            logger.warning("%d of the first %d samples of %s cannot be read: %s", len(bad), len(errors), split, bad[0])


def error_of(sample: RawSample | UnreadableSample) -> DataError | None:
    """Why a sample cannot be used; none: it can."""
    if isinstance(sample, UnreadableSample):
        return sample.error
    if isinstance(sample.image, bytes):
        try:
            decode(sample.image, sample.source)
        except DataError as error:
            return error
    return None


def parts_of(count: int, images: int) -> list[Part]:
    """Parts of a source whose positions are `count` samples; `images` samples each."""
    stops = [min(start + images, count) for start in range(0, count, images)]
    return [Part(start, stop, samples=stop - start) for start, stop in zip(range(0, count, images), stops, strict=True)]
