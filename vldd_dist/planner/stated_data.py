"""Planning without the data, from the numbers of images that the description states."""

from collections.abc import Mapping

from vldd_dist.config.base import choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.data.sources.base import Source
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
    missing: dict[str, str] = {}
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
    return plannable, [f"{assumption} ({error})" for error in set(missing.values())]


def _problem(experiment: Experiment) -> str | None:
    """Why the source is not here; None if it is. A source that is here and damaged raises the same error as in a run."""
    source: Source = experiment.data.source
    try:
        for split in source.own_splits():
            for part in source.parts(split, limit=1, part_samples=1):
                # Some sources look at their files only here.
                source.describe(split, part, seed=experiment.seed)
    except MissingData as error:
        return str(error)
    return None
