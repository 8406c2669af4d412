"""Checks, before anything runs, that the source has enough images."""

from contextlib import suppress
from math import ceil, floor, sqrt

from vldd_dist.config.experiment import Experiment, count_conflicts
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.preparation.groups import groups_of
from vldd_dist.data.sources.base import Source
from vldd_dist.errors import ConfigError, DataError, UnusableHere

# Expected images of a split below which at least nine of ten draws leave it empty.
FEWEST_EXPECTED = 0.1
# Standard deviations by which a number of images differs from the expected one in less than one of 100,000 draws.
DEVIATIONS = 5


def train_images(data: DataSettings) -> int | None:
    """The largest number of training images that may be left without those that become another split; None if the source does
    not know it. The split of each image is a draw (`Group.split_of`), whose result is known only after the preparation.

    Raises:
        ConfigError: a limit is more than the source has or a draw can leave, or it lacks a split and `data.split` would
            probably leave no image for it.
    """
    source: Source = data.source
    _check_limits(data, source)
    carved = data.carved()
    limit = data.limits["train"]
    count = source.count("train", None if carved else limit)
    for split, fraction in carved.items():
        if fraction == 0 or (count is not None and count * fraction < FEWEST_EXPECTED):
            leaves = f" of {count} images probably leaves" if fraction else " leaves"
            raise ConfigError(
                f"data.split.{split}: {fraction:g}{leaves} no {split} image, and the source has no {split} split: raise it, "
                "or name a source with this split"
            )
    if count is None:
        return None
    for split, fraction in carved.items():
        taken = data.limits[split]
        if taken is not None and taken > ceil(_largest(count, fraction)):
            raise ConfigError(
                f"data.{split}_images ({taken}) is more than data.split.{split} takes ({fraction:g} of {count} images, about "
                f"{round(count * fraction)}): lower it, or raise data.split.{split}"
            )
    moved = sum(carved.values())
    # Each split that the source lacks gets at least one image, or the preparation fails.
    remaining = min(floor(_largest(count, 1 - moved)), count - len(carved))
    if limit is None:
        return remaining
    if carved and limit > remaining:
        raise ConfigError(
            f"data.train_images ({limit}) is more than data.split leaves (at most {remaining} of {count}): lower or remove it"
        )
    return min(remaining, limit)


def _largest(count: int, fraction: float) -> float:
    """The largest number of `count` images that a draw with this probability takes."""
    return count * fraction + DEVIATIONS * sqrt(count * fraction * (1 - fraction))


def _check_limits(data: DataSettings, source: Source) -> None:
    for split in source.own_splits():
        if (limit := data.limits[split]) is None:
            continue
        with suppress(DataError, UnusableHere):
            # What cannot be read is reported by the worker that reads it.
            if (known := source.known_count(split)) is not None and known < limit:
                raise ConfigError(f"data.{split}_images ({limit}) is more than the source has ({known}): lower it or remove it")


def check_counts(experiment: Experiment, images: int | None) -> None:
    """Raises ConfigError if the description asks for more than this number of training images; None: it is not known."""
    if images is not None:
        groups = sum(group.split == "train" for group in groups_of(experiment.data))
        if conflicts := count_conflicts(experiment, images, groups):
            raise ConfigError(conflicts[0])
