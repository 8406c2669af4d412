"""The graph of an experiment's work units."""

from collections.abc import Iterator

from vldd_dist.config.experiment import Experiment
from vldd_dist.pipeline.graphs.data_checks import check_counts, train_images
from vldd_dist.pipeline.graphs.model_checks import check_models
from vldd_dist.pipeline.stage import all_stages, stage_of, stage_until
from vldd_dist.pipeline.work_unit import WorkUnit, in_dependency_order


class Graph:
    """The units of an experiment.

    Args:
        same_data: the graph of an experiment with the same data, seed and device, so that its source is not read again.

    Raises:
        ConfigError, DataError: a source, weights file or text encoder that the description names does not exist, or the source
            has too few images.
    """

    def __init__(self, experiment: Experiment, same_data: "Graph | None" = None) -> None:
        self.experiment = experiment
        self._units: dict[tuple[object, ...], WorkUnit] = {("dataset",): same_data.unit("dataset")} if same_data else {}
        check_models(experiment)
        # All units are made here, so that errors in the description are reported before anything runs.
        self._wanted = {stage.kind: [self.unit(stage.kind, *key) for key in stage.wanted(self)] for stage in all_stages()}
        self._train_images: int | None = same_data._train_images if same_data else train_images(experiment.data)
        check_counts(experiment, self._train_images)

    def unit(self, kind: str, *key: object) -> WorkUnit:
        """The unit of this kind with this key."""
        if (kind, *key) not in self._units:
            self._units[(kind, *key)] = stage_of(kind).unit(self, *key)
        return self._units[(kind, *key)]

    def wanted(self, kind: str) -> list[WorkUnit]:
        """The units of this kind that are results of a run."""
        return self._wanted[kind]

    def units(self, until: str | None = None) -> list[WorkUnit]:
        """Every unit once, inputs first.

        Args:
            until: a milestone: only the units of its stage, with all their inputs; None: all units.

        Raises:
            ConfigError: there is no such milestone.
        """
        # Publications are the last results of a run; a stage of a plug-in may come after them.
        if until in (None, stage_of("publication").milestone):
            return in_dependency_order([unit for wanted in self._wanted.values() for unit in wanted])
        last = stage_until(until)
        return in_dependency_order([unit for unit in self.units() if unit.kind == last.kind])

    def owners(self, until: str | None = None) -> Iterator[tuple["Graph", list[WorkUnit]]]:
        """This graph with its units, as `StudyGraph.owners` yields the graphs of a study."""
        yield self, self.units(until)
