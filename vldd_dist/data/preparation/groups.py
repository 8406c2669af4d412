"""Groups: the part of a source that one work unit prepares. And what is known of the splits before an image is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.sources.base import SPLITS, Part, Source
from vldd_dist.recall_metrics import AT_MOST, coarseness


@dataclass(frozen=True)
class Group:
    """One or more parts of one of the source's own splits, usually one.

    Attributes:
        split: the source's own split.
        carved: (split that the source lacks, fraction of this split's images that become it); empty if it lacks none.
        limits: (split, largest number of images) if there are `carved` splits and limits.
    """

    split: str
    parts: tuple[Part, ...]
    carved: tuple[tuple[str, float], ...] = ()
    limits: tuple[tuple[str, int], ...] = ()

    @property
    def splits(self) -> list[str]:
        """The splits that get images of this group."""
        return [self.split, *(split for split, _ in self.carved)]

    @property
    def samples(self) -> int | None:
        """The number of samples; None if the source does not know it."""
        counts = [part.samples for part in self.parts]
        return None if None in counts else sum(count for count in counts if count)

    def split_of(self, name: str) -> str:
        """The split of an image, chosen by a hash of its name, so that new images do not change the split of others whose names
        stay the same."""
        draw = int.from_bytes(sha256(name.encode()).digest()[:8], "big") / 2**64
        for split, fraction in self.carved:
            if draw < fraction:
                return split
            draw -= fraction
        return self.split

    def as_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        parts = [[part.start, part.stop, part.limit, part.samples] for part in self.parts]
        return {"split": self.split, "parts": parts, "carved": dict(self.carved), "limits": dict(self.limits)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Group":
        parts = tuple(Part(*part) for part in tree["parts"])
        return cls(tree["split"], parts, tuple(tree["carved"].items()), tuple(tree["limits"].items()))


def groups_of(settings: DataSettings) -> Iterator[Group]:
    """The groups of all splits, in order.

    Raises:
        DataError: the source is missing or cannot be read.
    """
    source: Source = settings.source
    for split in source.own_splits():
        carved = settings.carved() if split == "train" else {}
        all_limits = {name: settings.limits[name] for name in (split, *carved)}
        limits = tuple((name, limit) for name, limit in all_limits.items() if limit is not None)
        if carved and limits:
            # The position of the last image of a limited split is known only after reading, so one group reads all parts.
            parts = tuple(source.parts(split, limit=None, part_samples=settings.group_images))
            yield Group(split, parts, tuple(carved.items()), limits)
            continue
        for part in source.parts(split, limit=settings.limits[split], part_samples=settings.group_images):
            yield Group(split, (part,), tuple(carved.items()))


def expected_images(settings: DataSettings) -> dict[str, int] | None:
    """Split -> number of images before any is read, where a split that the source lacks has the expected number, and those of
    `limits_as_counts` the largest possible one; None if the source does not know its number of images and no limit does."""
    source: Source = settings.source
    own, carved, limits = source.own_splits(), settings.carved(), settings.limits
    counts = {split: source.count(split, None if carved else limits[split]) for split in own}
    known = {split: count for split, count in counts.items() if count is not None}
    if len(known) < len(own):
        return None
    from_train = {split: round(fraction * known["train"]) for split, fraction in carved.items()}
    known["train"] -= sum(from_train.values())
    return {split: min(count, limits[split] or count) for split, count in (known | from_train).items()}


def limits_as_counts(settings: DataSettings) -> list[str]:
    """The splits for whose numbers of images `expected_images` takes their limits, because the source does not know them."""
    source: Source = settings.source
    if settings.carved():
        return []
    return [split for split, limit in settings.limits.items() if limit is not None and source.count(split, None) is None]


def limited_splits(data: DataSettings) -> list[str]:
    """A sentence if limits leave out images of a source that knows how many it has: which ones depends on its order."""
    limits = {split: limit for split, limit in data.limits.items() if limit is not None}
    if data.source.draws_images or not limits:
        return []
    have = expected_images(data.model_copy(update={f"{split}_images": None for split in SPLITS})) or {}
    less = [split for split, limit in limits.items() if split in have and limit < have[split]]
    if not less:
        return []
    taken = ", ".join(f"{split} {limits[split]:,} of {have[split]:,}" for split in less)
    keys = ", ".join(f"data.{split}_images" for split in less)
    return [
        f"Only the first images in the source's order are taken ({taken}): if it is sorted, for example by class, they are not "
        f"like the others; then shuffle it, or remove {keys}"
    ]


def carved_splits(data: DataSettings) -> list[str]:
    """A sentence for each split that the source lacks."""
    carved = data.carved()
    expected = expected_images(data) if carved else None
    about = {split: f", about {expected[split]:,}" if expected else "" for split in carved}
    return [
        f"{split}: {fraction:.3g} of the training images{about[split]}, by a hash of their names (data.split.{split})"
        for split, fraction in carved.items()
    ]


def small_splits(data: DataSettings) -> dict[str, str]:
    """Split -> a sentence, for each split that probably gets no image, with which the preparation fails, and for each split on
    which recall will be measured on few images: pairs and learning rates are chosen by that on val. Empty if the number of
    images is not known."""
    expected = expected_images(data)
    if expected is None:
        return {}
    carved, limits = data.carved(), limits_as_counts(data)
    notes = {
        split: f"data.split.{split}: {fraction:g} of the images probably leaves no {split} image."
        for split, fraction in carved.items()
        if expected[split] == 0
    }
    for split in ("val", "test"):
        qualifier = "about " if split in carved else AT_MOST if split in limits else ""
        if coarse := coarseness(expected[split], qualifier, split):
            notes[split] = coarse
    return notes
