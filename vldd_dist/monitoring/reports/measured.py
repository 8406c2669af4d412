"""The committed results of an experiment as reports need them: the facts of its units, and the rows of its tables."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

from vldd_dist.applications.tables import apart_by_pairs, application_table
from vldd_dist.artifacts.facts import FactsType
from vldd_dist.artifacts.keys import ManifestKey, prefix_of
from vldd_dist.artifacts.manifests import Usage
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.facts import CaptionEmbeddingsFacts, DatasetFacts
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.distilled_set.publishing.presentation import shard_names
from vldd_dist.method_names import DISTILLED, FULL
from vldd_dist.monitoring.reports.budgets import sizes_with_similarity
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stage import title_of
from vldd_dist.pipeline.stages.application import ApplicationFacts, keys_of
from vldd_dist.pipeline.stages.coreset import CoresetFacts
from vldd_dist.pipeline.stages.data.image_features import ImageFeaturesFacts
from vldd_dist.pipeline.stages.evaluation import EvaluationFacts
from vldd_dist.pipeline.stages.publication import PublicationFacts
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.reporting.data import MeasuredSplit, MissingRow, PublishedSet, Row, StageCost, ValidationRecall, aggregate
from vldd_dist.reporting.tables.set_sizes import Sizes
from vldd_dist.reporting.tables.table import Table
from vldd_dist.store.objects import DamagedObject
from vldd_dist.store.store import MissingObject, Store

READS_AT_ONCE = 16
# The files of a distilled set that can be viewed without this package, besides its tars.
SET_FILES = ("README.md", "preview.png", "manifest.json")


class Measured:
    """Facts of committed units. Manifests are cached, because committed units do not change.

    Attributes:
        done: ids of the units that were committed at the last `refresh`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done: set[str] = set()
        self._readers: dict[str, UnitReader] = {}
        self._contents: dict[str, str] = {}

    def refresh(self, units: Sequence[WorkUnit]) -> None:
        """Read the manifests of newly committed units. Raises StoreError."""
        self.done = committed_units(self.store, list(units))
        # In parallel, because there may be thousands after a resume.
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            list(pool.map(self.reader, units))

    def reader(self, unit: WorkUnit) -> UnitReader | None:
        """The reader of a unit; None if it is not committed."""
        return self.committed(unit) if unit.id in self.done else None

    def committed(self, unit: WorkUnit) -> UnitReader:
        """The reader of a committed unit."""
        if unit.id not in self._readers:
            self._readers[unit.id] = UnitReader(self.store, unit.kind, unit.id)
        return self._readers[unit.id]

    def facts(self, unit: WorkUnit, kind: type[FactsType]) -> FactsType | None:
        """The facts of a unit, in the model of its kind; None if it is not committed."""
        reader = self.reader(unit)
        return None if reader is None else reader.facts_as(kind)

    def test_split(self, graph: Graph) -> MeasuredSplit | None:
        """An experiment's test split, without its content; None if its data are not prepared."""
        dataset = self.facts(graph.unit("dataset"), DatasetFacts)
        test = None if dataset is None else dataset.splits.get("test")
        return None if test is None else MeasuredSplit(images=test.images, captions=test.captions)

    def test_splits(self, graphs: Mapping[str, Graph]) -> dict[str, MeasuredSplit]:
        """Variant -> its test split, for the variants whose data are prepared. Contents are read only if variants have several
        data sets, and once."""
        splits = {variant: split for variant, graph in graphs.items() if (split := self.test_split(graph))}
        datasets = {variant: graphs[variant].unit("dataset") for variant in splits}
        if len({unit.id for unit in datasets.values()}) < 2:
            return splits
        return {
            variant: split.model_copy(update={"content": self._test_content(datasets[variant])})
            for variant, split in splits.items()
        }

    def _test_content(self, dataset: WorkUnit) -> str:
        """The digest of a data set's test split; if it cannot be read, the id of the data set, which no other has."""
        if dataset.id not in self._contents:
            try:
                self._contents[dataset.id] = Dataset(self.committed(dataset)).content("test")
            except (MissingObject, DamagedObject):
                return dataset.id
        return self._contents[dataset.id]

    def text_dim(self, graph: Graph) -> int | None:
        """Size of an experiment's caption embeddings; None before they are committed."""
        facts = self.facts(graph.unit("caption_embeddings"), CaptionEmbeddingsFacts)
        return None if facts is None else facts.dim

    def costs(self, units: Sequence[WorkUnit]) -> list[StageCost]:
        """The run times of the committed units of each stage, in the order of the units."""
        # Kind -> (unit, its time or None) of each committed unit.
        kinds: dict[str, list[tuple[WorkUnit, Usage | None]]] = {}
        for unit in units:
            if reader := self.reader(unit):
                kinds.setdefault(unit.kind, []).append((unit, reader.manifest.usage))
        return [
            StageCost(
                name=title_of(kind),
                seconds=sum(usage.seconds for _, usage in timed if usage),
                core_seconds=sum(usage.seconds * usage.cpus for _, usage in timed if usage),
                gpu_seconds=sum(usage.seconds * usage.gpus for _, usage in timed if usage),
                untimed=sum(usage is None for _, usage in timed),
                units=[(unit.label, ManifestKey(prefix_of(unit.kind, unit.id)).key) for unit, _ in timed],
            )
            for kind, timed in kinds.items()
        ]

    def published(self, graph: Graph) -> list[PublishedSet]:
        """The published distilled sets of an experiment."""
        return [
            PublishedSet(
                url=self.store.url_of(facts.folder),
                digest=facts.digest,
                folder=facts.folder,
                files=[*SET_FILES, *shard_names(pairs)],
            )
            for pairs, seed in graph.experiment.distill.sets()
            if (facts := self.facts(graph.unit("publication", pairs, seed), PublicationFacts))
        ]

    def rows(self, graph: Graph) -> list[Row]:
        """The rows of the recall table that have an evaluated student: full data, coresets, distilled sets."""
        averaging = {evaluated.method for evaluated in evaluated_sets(graph.experiment) if evaluated.averages}
        return [
            aggregate(method, pairs, recalls, model, method in averaging, sum(map(len, runs)), self._selections(runs))
            for (method, pairs, model), runs in self._planned(graph).items()
            if (recalls := [of_run for run in runs if (of_run := self._recalls(run))])
        ]

    def missing(self, graph: Graph) -> list[MissingRow]:
        """The rows of the recall table that have no evaluated student."""
        return [
            MissingRow(method=method, pairs=pairs or None, image_model=model, planned=sum(map(len, runs)))
            for (method, pairs, model), runs in self._planned(graph).items()
            if not any(unit.id in self.done for run in runs for unit in run)
        ]

    def validation(self, graph: Graph) -> list[ValidationRecall]:
        """The validation recalls of coresets, as the distillations measure them of their pairs: by the same protocol."""
        return [
            ValidationRecall(method=method, pairs=pairs, mean=fmean(means))
            for (method, pairs, model), runs in self._planned(graph).items()
            if method not in (FULL, DISTILLED)
            and model is None
            and (means := [fmean(students) for run in runs if (students := self._validation_recalls(run))])
        ]

    def _planned(self, graph: Graph) -> dict[tuple[str, int, str | None], list[list[WorkUnit]]]:
        """(method, pairs, another image model or None) -> for each run, the evaluations of its students. The pairs of full data
        are 0 before they are known."""
        dataset = self.facts(graph.unit("dataset"), DatasetFacts)
        train_images = 0 if dataset is None else dataset.splits["train"].images
        experts = [[unit] for unit in graph.wanted("evaluation") if "expert" in unit.inputs]
        planned: dict[tuple[str, int, str | None], list[list[WorkUnit]]] = {}
        if experts:
            planned[FULL, train_images, None] = experts
        for evaluated in evaluated_sets(graph.experiment):
            for model, row in evaluated.rows(graph.experiment.model.image.model):
                evaluations = [graph.unit("evaluation", *key) for key in evaluated.evaluations(model)]
                planned.setdefault(row, []).append(evaluations)
        return planned

    def application_tables(self, graph: Graph) -> dict[str, Table]:
        """Name -> table, for each application with a committed unit. If a name occurs again, the second is NAME-2."""
        tables: dict[str, Table] = {}
        applications = graph.experiment.applications.run
        for position, application in enumerate(applications):
            units = [graph.unit("application", *key) for key in keys_of(graph.experiment, position)]
            committed = [(unit, facts) for unit in units if (facts := self.facts(unit, ApplicationFacts))]
            results = apart_by_pairs(
                (distillation.spec["pairs"] if (distillation := unit.inputs.get("distillation")) else None, result)
                for unit, facts in committed
                for result in facts.results
            )
            number = 1 + sum(other.name == application.name for other in applications[:position])
            if results:
                sizes = self._feature_sizes(graph, [unit for unit, _ in committed])
                name = application.name + (f"-{number}" if number > 1 else "")
                table = application_table(application, graph.experiment.name, results, sizes)
                if len(committed) < len(units):
                    incomplete = f"Incomplete: {len(committed)} of {len(units)} distilled sets."
                    table = table.model_copy(update={"notes": [*table.notes, incomplete]})
                tables[name] = table
        return tables

    def _feature_sizes(self, graph: Graph, units: Sequence[WorkUnit]) -> Sizes:
        """The sizes, with features as images, of the distilled sets that these units of an application take, if a similarity is
        learned."""
        counts = {distillation.spec["pairs"] for unit in units if (distillation := unit.inputs.get("distillation"))}
        text_dim, images = self.text_dim(graph), self.facts(units[0].inputs["image_features"], ImageFeaturesFacts)
        if text_dim is None or images is None:
            return {}
        sizes = sizes_with_similarity(graph.experiment, text_dim, images.dim)
        return {pairs: of_set for pairs, of_set in sizes.items() if pairs in counts}

    def _selections(self, runs: list[list[WorkUnit]]) -> int | None:
        """See `Row`; of the runs of a row that have an evaluated student. A selection that is no longer in the store counts as
        different from all others."""
        evaluated = [run[0] for run in runs if any(unit.id in self.done for unit in run)]
        sources = [source for unit in evaluated if (source := unit.inputs.get("pairs")) and source.kind == "coreset"]
        facts = [self.facts(source, CoresetFacts) for source in sources]
        different = {source.id if found is None else found.chosen() for source, found in zip(sources, facts, strict=True)}
        return len(different) if len(different) < len(sources) else None

    def _validation_recalls(self, evaluations: list[WorkUnit]) -> list[float]:
        """Of the students whose evaluations are committed, each at the learning rate that it chose."""
        found = [facts for unit in evaluations if (facts := self.facts(unit, EvaluationFacts))]
        return [recalls.mean for facts in found for rate, recalls in facts.validation if rate == facts.learning_rate]

    def _recalls(self, evaluations: list[WorkUnit]) -> list[dict[str, float]]:
        """The recalls and further metrics of the evaluations that are committed."""
        found = [facts for unit in evaluations if (facts := self.facts(unit, EvaluationFacts))]
        return [facts.test.model_dump() | facts.metrics for facts in found]
