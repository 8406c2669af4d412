"""What is committed of an experiment, as reports read it: facts of its units, and the rows of its tables."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vldd_dist.applications.result import Result
from vldd_dist.applications.tables import application_table
from vldd_dist.artifacts.manifests import UnitManifest
from vldd_dist.artifacts.units import UnitReader, manifest_key, prefix_of
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stage import title_of
from vldd_dist.pipeline.stages.application import keys_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.recall_metrics import FULL
from vldd_dist.reporting.data import PublishedSet, Row, StageCost, aggregate
from vldd_dist.reporting.table import Table
from vldd_dist.store.store import Store

READS_AT_ONCE = 16
# Of a distilled set, what a reader may look at without this package.
SET_FILES = ("README.md", "preview.png", "manifest.json", "pairs/000000.tar")


class Measured:
    """Facts of committed units. What was read is cached, since committed units do not change.

    Attributes:
        done: ids of the committed units, as of the last `refresh`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done: set[str] = set()
        self._known: dict[str, UnitManifest] = {}

    def refresh(self, units: Sequence[WorkUnit]) -> None:
        """Read what is newly committed. Raises StoreError."""
        self.done = committed_units(self.store, list(units))
        # In parallel: after a resume thousands of units are new.
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            list(pool.map(self.manifest, units))

    def manifest(self, unit: WorkUnit) -> UnitManifest | None:
        """None if the unit is not committed."""
        if unit.id not in self.done:
            return None
        if unit.id not in self._known:
            self._known[unit.id] = UnitReader(self.store, unit.kind, unit.id).manifest
        return self._known[unit.id]

    def facts(self, unit: WorkUnit) -> dict[str, Any] | None:
        """None if the unit is not committed."""
        manifest = self.manifest(unit)
        return None if manifest is None else manifest.facts

    def costs(self, units: Sequence[WorkUnit]) -> list[StageCost]:
        """What the committed units of each stage took, in the order of the units."""
        kinds: dict[str, list[tuple[WorkUnit, float | None]]] = {}
        for unit in units:
            if manifest := self.manifest(unit):
                kinds.setdefault(unit.kind, []).append((unit, manifest.seconds))
        return [
            StageCost(
                name=title_of(kind),
                seconds=sum(seconds or 0 for _, seconds in took),
                core_seconds=sum((seconds or 0) * unit.cpus for unit, seconds in took),
                gpu_seconds=sum((seconds or 0) * unit.gpus for unit, seconds in took),
                untimed=sum(seconds is None for _, seconds in took),
                units=[(unit.label, manifest_key(prefix_of(unit.kind, unit.id))) for unit, _ in took],
            )
            for kind, took in kinds.items()
        ]

    def published(self, graph: Graph) -> list[PublishedSet]:
        """The distilled sets of an experiment."""
        found = [facts for unit in graph.wanted("publication") if (facts := self.facts(unit))]
        return [
            PublishedSet(
                url=self.store.url_of(facts["folder"]), digest=facts["digest"], folder=facts["folder"], files=list(SET_FILES)
            )
            for facts in found
        ]

    def rows(self, graph: Graph) -> list[Row]:
        """Of what has an evaluated student: full data, coresets, distilled sets."""
        runs: dict[tuple[str, int, str | None], list[list[dict[str, float]]]] = {}
        remarks: dict[str, str | None] = {}
        own = graph.experiment.model.image.model
        train = (self.facts(graph.unit("dataset")) or {}).get("splits", {}).get("train", {}).get("images", 0)
        experts = [unit for unit in graph.wanted("evaluation") if "expert" in unit.inputs]
        if of_experts := self._recalls(experts):
            runs[FULL, train, None] = [[recall] for recall in of_experts]
        for chosen in evaluated_sets(graph.experiment):
            remarks[chosen.method] = chosen.remark
            for model in chosen.image_models:
                if found := self._recalls([graph.unit("evaluation", *key) for key in chosen.evaluations(model)]):
                    runs.setdefault((chosen.method, chosen.pairs, None if model == own else model), []).append(found)
        return [aggregate(method, pairs, of_row, model, remarks.get(method)) for (method, pairs, model), of_row in runs.items()]

    def application_tables(self, graph: Graph) -> dict[str, Table]:
        """Name -> table of each application with a committed unit; the second of a name is NAME-2."""
        found: dict[str, Table] = {}
        used = graph.experiment.applications.run
        for position, application in enumerate(used):
            units = [graph.unit("application", *key) for key in keys_of(graph.experiment, position)]
            results = [result for unit in units if (facts := self.facts(unit)) for result in facts["results"]]
            number = 1 + sum(other.name == application.name for other in used[:position])
            if results:
                name = application.name + (f"-{number}" if number > 1 else "")
                rows = [Result.model_validate(result) for result in results]
                found[name] = application_table(application, graph.experiment.name, rows)
        return found

    def _recalls(self, evaluations: list[WorkUnit]) -> list[dict[str, float]]:
        """Of those that are committed."""
        return [facts["test"] | facts.get("metrics", {}) for unit in evaluations if (facts := self.facts(unit))]
