"""The interface of sources of images and captions."""

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import model_validator

from vldd_dist.config.base import Plugin
from vldd_dist.data.images import decode
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError, UnusableHere
from vldd_dist.store.location import unexpanded_home

logger = logging.getLogger(__name__)

# Number of samples that `check` reads.
CHECKED = 20
SPLITS = ("train", "val", "test")
# Other common names of splits. COCO's 'restval' images are always used for training.
SPLIT_OF = {split: split for split in SPLITS} | {
    "training": "train",
    "restval": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
}
# The name of a split, without letters around it.
SPLIT_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(SPLIT_OF)})(?![a-z])", re.IGNORECASE | re.ASCII)
Samples = Iterator[RawSample | UnreadableSample]


@dataclass(frozen=True)
class Part:
    """A range of a split that one work unit prepares.

    Attributes:
        start, stop: positions [start, stop) in the source. Each source defines what its positions count, for example samples,
            files or bytes.
        limit: largest number of samples; None: all.
        samples: number of samples, including unreadable ones, if the source knows it. A source that states it must
            not yield more.
    """

    start: int
    stop: int
    limit: int | None = None
    samples: int | None = None


class Source(Plugin):
    """A source and its settings. Fields that only say where the data are stored are marked `LOCATION`: they do not determine a
    unit's output, because `describe` identifies the content.

    Attributes:
        draws_images: whether the images depend on the experiment's seed and on their size. Then `describe` returns the seed.
    """

    draws_images: ClassVar[bool] = False

    @model_validator(mode="after")
    def _paths_are_whole(self) -> Self:
        for name in self._fields_with_role("location"):
            if problem := unexpanded_home(str(getattr(self, name))):
                raise ValueError(f"{name}: {problem}")
        return self

    def own_splits(self) -> tuple[str, ...]:
        """Those of `SPLITS` that the source has, always including `train`. `data.split` makes the others from `train`."""
        return SPLITS

    @abstractmethod
    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        """One of the source's own splits, cut into consecutive parts.

        Args:
            limit: largest number of samples in the whole split; None: all.
            part_samples: approximate number of samples in a part.

        Raises:
            DataError: the source is missing or cannot be read.
            StoreError: it cannot be reached at the moment.
        """

    @abstractmethod
    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        """The samples of a part of one of the source's own splits in a fixed order, not yet resized.

        Args:
            image_size: pixels, for sources that draw their images.
            seed: the experiment's seed, for sources that draw their images.

        Raises:
            DataError: something that concerns more than a single sample is missing or damaged.
            StoreError: a file or the folder of images cannot be reached at the moment.
        """

    @abstractmethod
    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """What the samples of a part depend on in addition to the settings, as JSON values; it becomes part of the unit's id.

        The plan calls it for every part, so expensive results should be cached (`functools.cached_property`).

        Raises:
            DataError: the source is missing.
            StoreError: it cannot be reached at the moment.
        """

    def describe_only(self, split: str, parts: Sequence[Part], *, seed: int) -> list[dict[str, Any]]:
        """What `describe` says of each of these parts. A worker that prepares them compares it with the plan.

        A source overrides this if its `describe` asks a server about other parts too: otherwise N workers would send N requests
        each.
        """
        return [self.describe(split, part, seed=seed) for part in parts]

    def most_samples(self, split: str, limit: int | None) -> int | None:
        """The largest number of samples in a split that the settings allow; None: they set no limit. No file is opened. Of a
        source whose settings determine the number, it is the number itself."""
        return limit

    def captions_per_image(self) -> int | None:
        """The number of captions of each image, if the settings alone determine it."""
        return None

    def count(self, split: str, limit: int | None) -> int | None:
        """The number of samples in a split if it is known without reading the samples. Otherwise, and if the source cannot be
        read, which the worker that reads it reports, `most_samples`, which may be more than there are."""
        try:
            known = self.known_count(split)
        except (DataError, UnusableHere):
            known = None
        if known is None:
            return self.most_samples(split, limit)
        return known if limit is None else min(known, limit)

    def known_count(self, split: str) -> int | None:
        """The number of samples in a split without a limit, for example from an index; None: not known.

        Raises:
            DataError: the source cannot be read.
            StoreError: it cannot be reached at the moment.
        """
        return None

    def would_include(self, folder: str) -> bool:
        """Whether files that are written into this local folder would become part of the data."""
        return False

    def check(self, split: str) -> None:
        """Read the first samples of one of the source's own splits before a run; log a warning if some are unreadable.

        Raises:
            DataError: all of them are unreadable, or the split has no samples.
        """
        parts = self.parts(split, limit=CHECKED, part_samples=CHECKED)
        samples = (sample for part in parts for sample in self.samples(split, part, image_size=64, seed=0))
        errors = [error_of(sample) for sample in islice(samples, CHECKED)]
        if not errors:
            raise DataError(f"data.source: the {split} split has no samples: correct data.source")
        bad = [error for error in errors if error is not None]
        if len(bad) == len(errors):
            raise DataError(f"{bad[0]} (none of the first {len(errors)} samples of {split} can be read)")
        if bad:
            logger.warning("%d of the first %d samples of %s cannot be read: %s", len(bad), len(errors), split, bad[0])


def split_called(name: str) -> str | None:
    """The split with this name, in any case and with or without surrounding white space; None: there is no such split."""
    return SPLIT_OF.get(name.strip().lower())


def check_split(name: str, where: str) -> None:
    """Raises DataError if there is no split with this name."""
    if split_called(name) is None:
        raise DataError(f"{where}: there is no split {name!r}: write one of {', '.join(SPLIT_OF)}")


def error_of(sample: RawSample | UnreadableSample) -> DataError | None:
    """Why a sample cannot be used; None if it can."""
    if isinstance(sample, UnreadableSample):
        return sample.error
    if isinstance(sample.image, bytes):
        try:
            decode(sample.image, sample.source)
        except DataError as error:
            return error
    return None


def parts_of(count: int, part_samples: int) -> list[Part]:
    """Parts of `part_samples` samples each, for a source with `count` samples whose positions count samples."""
    stops = [min(start + part_samples, count) for start in range(0, count, part_samples)]
    return [Part(start, stop, samples=stop - start) for start, stop in zip(range(0, count, part_samples), stops, strict=True)]
