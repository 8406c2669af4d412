"""What a source of images and captions is."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from vldd_dist.config.base import Plugin
from vldd_dist.data.sources.sample import RawSample, UnreadableSample

SPLITS = ("train", "val", "test")
Samples = Iterator[RawSample | UnreadableSample]


class Source(Plugin):
    """A source and its settings. Fields that say where the data lie are marked `WHERE_IT_LIES`: `describe` tells content."""

    @abstractmethod
    def samples(self, split: str, *, limit: int | None, image_size: int, seed: int) -> Samples:
        """The split's samples in a fixed order, not yet resized.

        Args:
            limit: samples at most; none: all.
            image_size: pixels, for sources that draw their images.
            seed: the experiment's, for the same.

        Raises:
            DataError: naming what is missing or damaged and cannot be counted as a single bad sample.
        """

    @abstractmethod
    def describe(self, seed: int) -> dict[str, Any]:
        """What the samples depend on, cheaply: part of the hash that names the prepared data set.

        Raises:
            DataError: the source is not there.
        """

    def stated_count(self, split: str, limit: int | None) -> int | None:
        """Samples of a split, as far as the description alone tells; nothing is opened."""
        return limit

    def count(self, split: str, limit: int | None) -> int | None:
        """Samples of a split, where an index tells it without reading them."""
        return self.stated_count(split, limit)
