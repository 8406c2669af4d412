"""Checks, before anything runs, that the source has enough images."""

from vldd_dist.config.experiment import Experiment, count_problems
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.preparation.groups import groups_of
from vldd_dist.data.sources.base import SPLITS, Source
from vldd_dist.errors import ConfigError


def train_images(data: DataSettings) -> int | None:
    """The number of training images, without those that become another split; None if the source does not know it.

    Raises:
        ConfigError: the source lacks a split, and `data.split` would leave no image for it.
    """
    source: Source = data.source
    missing = {split: getattr(data.split, split) for split in SPLITS if split not in source.own_splits()}
    limit = data.limits["train"]
    count = source.count("train", None if missing else limit)
    for split, fraction in missing.items():
        if fraction == 0 or (count is not None and count * fraction < 1):
            of_all = f" of {count} images" if fraction else ""
            raise ConfigError(
                f"data.split.{split}: {fraction:g}{of_all} leaves no {split} image, and the source has no {split} split: raise "
                "it, or name a source with this split"
            )
    if count is None:
        return None
    remaining = count - sum(round(count * fraction) for fraction in missing.values())
    return remaining if limit is None else min(remaining, limit)


def check_counts(experiment: Experiment, images: int | None) -> None:
    """Raises ConfigError if the description asks for more than this number of training images; None: it is not known."""
    if images is not None:
        groups = sum(group.split == "train" for group in groups_of(experiment.data))
        for problem in count_problems(experiment, images, groups):
            raise ConfigError(problem)
