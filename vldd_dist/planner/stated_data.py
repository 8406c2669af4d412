"""Planning without the data: by the counts that the description states."""

from collections.abc import Mapping

from vldd_dist.config.base import choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.errors import DataError, MissingData
from vldd_dist.plugins import SOURCES


def with_stated_data(experiments: Mapping[str, Experiment]) -> tuple[dict[str, Experiment], list[str]]:
    """The experiments, those whose data are not here with made-up data of the stated size, and a sentence for each such source.

    Raises:
        DataError: a source is not here, and its counts are not stated.
    """
    found: dict[str, Experiment] = {}
    missing: dict[str, str] = {}
    for name, experiment in experiments.items():
        error = missing.get(key := experiment.data.model_dump_json()) or _problem(experiment)
        found[name] = experiment
        if error is not None:
            if None in experiment.data.limits.values():
                raise DataError(f"{error} (or state data.train_images, val_images and test_images to plan without the data)")
            missing[key] = error
            data = experiment.data.model_copy(update={"source": choose(SOURCES, "scenes")})
            found[name] = experiment.model_copy(update={"data": data})
    return found, [f"the data are not here, and counted as the description states ({error})" for error in set(missing.values())]


def _problem(experiment: Experiment) -> str | None:
    """Why the source is not here. What is here and damaged is refused as by a run."""
    source = experiment.data.source
    try:
        for split in source.own_splits():
            source.parts(split, limit=1, images=1)
    except MissingData as error:
        return str(error)
    return None
