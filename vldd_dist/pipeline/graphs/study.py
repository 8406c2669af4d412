"""The graph of a study. Variants share every unit with the same id."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from vldd_dist.config.experiment import Experiment
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit, in_dependency_order


class StudyGraph:
    """The graphs of a study's variants.

    Attributes:
        graphs: variant -> its graph.

    Raises:
        ConfigError: as of `Graph`; or two variants have the same units, so one result would stand in the rows of both.
        DataError: as of `Graph`.
    """

    def __init__(self, experiments: Mapping[str, Experiment]) -> None:
        self.graphs: dict[str, Graph] = {}
        # Reading a source's index takes seconds for each split, so variants with the same data share it.
        graph_of_data: dict[str, Graph] = {}
        variant_of: dict[frozenset[str], str] = {}
        for variant, experiment in experiments.items():
            data = experiment.model_dump_json(include={"data", "seed", "device"})
            graph = Graph(experiment, graph_of_data.get(data))
            graph_of_data.setdefault(data, graph)
            self.graphs[variant] = graph
            # A publication contains the experiment's name, so its id differs.
            first = variant_of.setdefault(frozenset(unit.id for unit in graph.units() if unit.kind != "publication"), variant)
            if first != variant:
                raise ConfigError(
                    f"the variants {first} and {variant} differ only in settings without an effect on results, such as "
                    "workers: remove one of them"
                )

    def units(self, until: str | None = None) -> list[WorkUnit]:
        """Every unit once, inputs first. The labels name the variants that need the unit.

        Args:
            until: a milestone, as in `Graph.units`.
        """
        users = self._users(until)
        every = in_dependency_order([unit for graph in self.graphs.values() for unit in graph.units(until)])
        return [replace(unit, label=self._label(unit, users[unit.id])) for unit in every]

    def shared(self, until: str | None = None) -> list[WorkUnit]:
        """The units that more than one variant needs."""
        users = self._users(until)
        return [unit for unit in self.units(until) if len(users[unit.id]) > 1]

    def count_without_sharing(self, until: str | None = None) -> int:
        """The total number of units if each variant ran in a store of its own."""
        return sum(len(graph.units(until)) for graph in self.graphs.values())

    def owners(self, until: str | None = None) -> Iterator[tuple[Graph, list[WorkUnit]]]:
        """(graph of a variant, those of its units that no earlier variant has). Together these are all units, each once.

        Args:
            until: a milestone, as in `Graph.units`.
        """
        seen: set[str] = set()
        for graph in self.graphs.values():
            new = [unit for unit in graph.units(until) if unit.id not in seen]
            seen |= {unit.id for unit in new}
            yield graph, new

    def _users(self, until: str | None) -> dict[str, list[str]]:
        users: dict[str, list[str]] = {}
        for variant, graph in self.graphs.items():
            for unit in graph.units(until):
                users.setdefault(unit.id, []).append(variant)
        return users

    def _label(self, unit: WorkUnit, users: list[str]) -> str:
        if len(users) == len(self.graphs) > 1:
            return unit.label
        others = f" and {len(users) - 1} more" if len(users) > 1 else ""
        return f"{unit.label} [{users[0]}{others}]"
