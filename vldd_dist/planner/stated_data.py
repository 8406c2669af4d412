"""Planning without the data, from the numbers of images that the description states."""

from collections.abc import Iterator, Mapping

from vldd_dist.config.base import choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.data.sources.base import Part, Source
from vldd_dist.errors import DataError, MissingData
from vldd_dist.plugins import SOURCES


def with_stated_data(experiments: Mapping[str, Experiment]) -> tuple[dict[str, Experiment], list[str]]:
    """Replace sources that this machine cannot see by synthetic data of the stated size.

    Returns:
        The experiments by name, and a sentence for each replaced source.

    Raises:
        DataError: a source is not here, and the description does not state its numbers of images.
    """
    plannable: dict[str, Experiment] = {}
    # Settings of the data as JSON -> why its source is not here.
    missing: dict[str, MissingData] = {}
    stand_in: Source = choose(SOURCES, "scenes")
    for name, experiment in experiments.items():
        error = missing.get(key := experiment.data.model_dump_json()) or _problem(experiment)
        plannable[name] = experiment
        if error is not None:
            if None in experiment.data.limits.values():
                raise DataError(f"{error} (or set data.train_images, val_images and test_images to plan without the data)")
            missing[key] = error
            data = experiment.data.model_copy(update={"source": stand_in})
            plannable[name] = experiment.model_copy(update={"data": data})
    assumption = (
        "The data cannot be read here, so the plan uses the numbers of images in the description, and "
        f"{stand_in.captions_per_image()} captions per image"
    )
    return plannable, [f"{assumption} ({error})" for error in dict.fromkeys(map(str, missing.values()))]


def _problem(experiment: Experiment) -> MissingData | None:
    """Why the source is not here; None if it is.

    Raises:
        DataError: only a part of the source is here, or it is damaged: a run would fail with the same error.
    """
    found = list(_look_at_parts(experiment.data.source, experiment.seed))
    missing = [error for error in found if error is not None]
    if missing and len(missing) < len(found):
        raise missing[0]
    return missing[0] if missing else None


def _look_at_parts(source: Source, seed: int) -> Iterator[MissingData | None]:
    """For each part of the source, why it is missing, or None if it is here."""
    try:
        splits = source.own_splits()
    except MissingData as error:
        yield error
        return
    for split in splits:
        try:
            parts = source.parts(split, limit=1, part_samples=1)
        except MissingData as error:
            yield error
            continue
        for part in parts:
            yield _missing_part(source, split, part, seed)


def _missing_part(source: Source, split: str, part: Part, seed: int) -> MissingData | None:
    try:
        # Some sources look at their files only here, and `describe` may look at those of all parts.
        source.describe_only(split, [part], seed=seed)
    except MissingData as error:
        return error
    return None
