"""What a source of images and captions is."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vldd_dist.config.base import Plugin
from vldd_dist.data.sources.sample import RawSample, UnreadableSample

SPLITS = ("train", "val", "test")
Samples = Iterator[RawSample | UnreadableSample]


@dataclass(frozen=True)
class Part:
    """A stretch of a split that one work unit prepares.

    Attributes:
        start, stop: positions [start, stop) in the source. What a position counts is the source's own affair: samples, files,
            bytes, row groups.
        limit: samples at most; none: all.
    """

    start: int
    stop: int
    limit: int | None = None


class Source(Plugin):
    """A source and its settings. Fields that say where the data lie are marked `WHERE_IT_LIES`: `describe` tells content."""

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


def parts_of(count: int, images: int) -> list[Part]:
    """`count` positions cut into stretches of `images` positions."""
    return [Part(start, min(start + images, count)) for start in range(0, count, images)]
