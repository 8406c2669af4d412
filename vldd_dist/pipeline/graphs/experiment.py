"""From an experiment to the graph of its work units."""

from vldd_dist.config.experiment import Experiment
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.graphs.model_checks import check_models
from vldd_dist.pipeline.stage import all_stages, milestones, stage_of
from vldd_dist.pipeline.work_unit import WorkUnit, in_dependency_order


class Graph:
    """The units of an experiment, made when they are asked for.

    Args:
        dataset: of an experiment with the same data, seed and device, where it is made already.

    Raises:
        ConfigError, DataError: a source, weights file or text encoder that the description names is not there.
    """

    def __init__(self, experiment: Experiment, dataset: WorkUnit | None = None) -> None:
        self.experiment = experiment
        self._units: dict[tuple[object, ...], WorkUnit] = {("dataset",): dataset} if dataset else {}
        check_models(experiment)
        # Everything is made here, so that what is wrong is said before anything runs.
        self._wanted = {stage.kind: [self.unit(stage.kind, *key) for key in stage.wanted(self)] for stage in all_stages()}

    def unit(self, kind: str, *key: object) -> WorkUnit:
        """The unit of a kind with a key."""
        if (kind, *key) not in self._units:
            self._units[(kind, *key)] = stage_of(kind).unit(self, *key)
        return self._units[(kind, *key)]

    def wanted(self, kind: str) -> list[WorkUnit]:
        """Units of a kind that a run ends with."""
        return self._wanted[kind]

    def units(self, until: str | None = None) -> list[WorkUnit]:
        """Every unit once, inputs first.

        Args:
            until: a milestone: units of its stage and of the stages before it, with all they need; none: everything.
        """
        if until is None or until == milestones()[-1]:
            return in_dependency_order([unit for wanted in self._wanted.values() for unit in wanted])
        kinds: list[str] = []
        for stage in all_stages():
            kinds.append(stage.kind)
            if stage.milestone == until:
                break
        else:
            raise ConfigError(f"--until {until}: choose one of {', '.join(milestones())}")
        last = [unit for unit in self.units() if unit.kind == kinds[-1]]
        return in_dependency_order(last)


def make_graph(experiment: Experiment) -> Graph:
    """The graph of an experiment; see `Graph`."""
    return Graph(experiment)
