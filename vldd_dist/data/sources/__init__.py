"""Sources of pictures and captions: one module each, registered by the name a description uses."""

from collections.abc import Iterator
from typing import Any, Protocol

from vldd_dist.config.data import DataSettings
from vldd_dist.data.sources import karpathy, scenes, shards
from vldd_dist.data.sources.sample import RawSample, UnreadableSample

SPLITS = ("train", "val", "test")


class Source(Protocol):
    """What a source module offers."""

    def samples(self, settings: DataSettings, split: str, seed: int) -> Iterator[RawSample | UnreadableSample]:
        """The split's samples, in a fixed order, not yet resized."""
        ...

    def describe(self, settings: DataSettings) -> dict[str, Any]:
        """What the samples depend on, cheaply: it becomes part of the dataset unit's hash."""
        ...


SOURCES: dict[str, Source] = {"scenes": scenes, "karpathy": karpathy, "shards": shards}


def samples(settings: DataSettings, split: str, seed: int) -> Iterator[RawSample | UnreadableSample]:
    """A split's samples. Raises DataError for what is missing or damaged, naming it."""
    return SOURCES[settings.source].samples(settings, split, seed)


def describe(settings: DataSettings) -> dict[str, Any]:
    """What the source's content depends on. Raises DataError when the source is not there."""
    return SOURCES[settings.source].describe(settings)
