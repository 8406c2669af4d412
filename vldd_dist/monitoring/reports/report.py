"""Writes the report of an experiment from its manifests: `report/NAME/{index.html,summary.json,tables.json,table.md}`."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from torch import Tensor

from vldd_dist.artifacts.keys import prefix_of
from vldd_dist.config.sections.distillation import DistillSection
from vldd_dist.config.sections.evaluation import EvaluationSection
from vldd_dist.data.facts import CaptionEmbeddingsFacts, DatasetFacts
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.method_names import DISTILLED
from vldd_dist.monitoring.reports.budgets import sizes_with_similarity
from vldd_dist.monitoring.reports.galleries import write_gallery
from vldd_dist.monitoring.reports.measured import Measured
from vldd_dist.monitoring.reports.report_files import CHART, MARKDOWN, PAGE, TABLES, key_of, write_tables
from vldd_dist.pipeline.context import read_tensors
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.stages.expert import ExpertFacts
from vldd_dist.pipeline.stages.publication import PublicationFacts
from vldd_dist.pipeline.stages.shared.evaluated_sets import EvaluatedSet, evaluated_sets
from vldd_dist.pipeline.stages.shared.phases import EARLIER
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.reporting.data import (
    DistillationCurve,
    ExpertCurve,
    Gallery,
    ReportData,
    RunProgress,
)
from vldd_dist.reporting.figures.drawing import as_file
from vldd_dist.reporting.figures.experiment_figures import has_recall_plot, recall_plot
from vldd_dist.reporting.pages.report_page import render_html
from vldd_dist.reporting.tables.recall_table import recall_table, summary
from vldd_dist.reporting.tables.table import Table
from vldd_dist.store.objects import DamagedObject
from vldd_dist.store.store import MissingObject, Store

# The largest number of distilled sets whose images are shown. It is limited, because images are embedded in the page.
GALLERIES = 12
Value = TypeVar("Value")


class Reporter:
    """Writes reports of an experiment from its committed units. What it reads is cached, because they do not change."""

    def __init__(self, graph: Graph, store: Store) -> None:
        self.experiment, self.graph, self.store = graph.experiment, graph, store
        self.sets = evaluated_sets(graph.experiment)
        self._measured = Measured(store)
        self._known_curves: dict[str, DistillationCurve] = {}
        self._known_galleries: dict[str, Gallery] = {}

    def write(self, progress: RunProgress | None = None, failures: Sequence[tuple[WorkUnit, Outcome]] = ()) -> list[Table]:
        """Read newly committed units, and write the files of the report.

        Raises:
            StoreError: a read or write failed.
        """
        data = self.collect(progress, failures)
        tables = {"recall": recall_table(data)} if data.rows else {}
        applications = self._measured.application_tables(self.graph)
        summary_key = key_of(self.experiment.name, "summary.json")
        self.store.write(summary_key, (json.dumps(summary(data), indent=1) + "\n").encode())
        write_tables(self.store, self.experiment.name, tables | applications)
        if has_recall_plot(data.rows):
            self.store.write(key_of(self.experiment.name, CHART), as_file(recall_plot(data.rows, data.missing)))
        self.store.write(self.page, render_html(data, list(tables.values()), list(applications.values())).encode())
        return [*tables.values(), *applications.values()]

    @property
    def page(self) -> str:
        """Key of the page in the store."""
        return key_of(self.experiment.name, PAGE)

    def collect(self, progress: RunProgress | None = None, failures: Sequence[tuple[WorkUnit, Outcome]] = ()) -> ReportData:
        """Everything that the report shows. Raises StoreError."""
        self._measured.refresh(self.graph.units())
        done, dim = self._measured.done, self._measured.text_dim(self.graph)
        rows = self._measured.rows(self.graph)
        distilled = [(chosen, self.graph.unit(*chosen.source)) for chosen in self.sets if chosen.method == DISTILLED]
        published = [unit for unit in self.graph.wanted("publication") if unit.id in done]
        galleries, damaged_sets = self._galleries(published[:GALLERIES])
        return ReportData(
            name=self.experiment.name,
            description=self._description(),
            rows=rows,
            missing=self._measured.missing(self.graph),
            test_split=self._measured.test_split(self.graph),
            similarity_sizes={} if dim is None else sizes_with_similarity(self.experiment, dim),
            validation=self._measured.validation(self.graph),
            experts=self._experts(),
            distillations=[
                # Distillations with different numbers of pairs may have the same first phase.
                self._once(self._known_curves, f"{unit.id} {chosen.pairs}", partial(self._curve, chosen, unit))
                for chosen, last in distilled
                for unit in _phases_until(last)
                if unit.id in done
            ],
            galleries=galleries,
            galleries_left_out=max(len(published) - GALLERIES, 0),
            failures=[(unit.label, outcome.cause) for unit, outcome in failures],
            progress=progress,
            store=self.store.url,
            distilled_sets=self._measured.published(self.graph),
            damaged_sets=damaged_sets,
            costs=self._measured.costs(self.graph.units()),
            files=["summary.json", TABLES, MARKDOWN, *([CHART] if has_recall_plot(rows) else [])],
        )

    @staticmethod
    def _once(cache: dict[str, Value], key: str, read: Callable[[], Value]) -> Value:
        if key not in cache:
            cache[key] = read()
        return cache[key]

    def _description(self) -> dict[str, str]:
        experiment = self.experiment
        dataset = self._measured.facts(self.graph.unit("dataset"), DatasetFacts)
        images = {split: dataset.splits[split].images for split in SPLITS if split in dataset.splits} if dataset else {}
        duplicated = {pair: count for pair, count in dataset.duplicates.items() if count} if dataset else {}
        duplicates = "".join(f"; {count:,} images are in two splits, {pair}" for pair, count in duplicated.items())
        bad = sum(facts.bad_images for facts in dataset.splits.values()) if dataset else 0
        compared = dataset.shared_captions.items() if dataset else ()
        shared = "".join(f"; {sentence}" for split, of_split in compared if (sentence := of_split.in_words(split)))
        embeddings = self._measured.facts(self.graph.unit("caption_embeddings"), CaptionEmbeddingsFacts)
        cut = f"; {sentence}" if embeddings and (sentence := embeddings.of_cut_captions()) else ""
        left_out = f"; left out: {bad:,} image{'s' * (bad != 1)} that could not be used" if bad else ""
        return {
            "data": f"{experiment.data.source.name}, "
            + ", ".join(f"{count:,} {split}" for split, count in images.items())
            + f" images of {experiment.data.image_size} px{left_out}{duplicates}{shared}",
            "image tower": f"{experiment.model.image.model}, weights {experiment.model.image.weights}, "
            f"train {experiment.model.image.train}",
            "text tower": f"{experiment.model.text.model}, {experiment.model.text.pooling} pooling, frozen{cut}",
            "experts": f"{experiment.experts.count}, of {experiment.experts.epochs} epochs each",
            "distillation": _distillation_in_words(experiment.distill),
            "evaluation": f"{len(experiment.evaluation.seeds)} seeds, students of {experiment.evaluation.epochs} epochs, "
            f"learning rate chosen on validation from {_rates_in_words(experiment.evaluation)}",
        }

    def _experts(self) -> list[ExpertCurve]:
        return [
            ExpertCurve(
                expert=index,
                epochs=list(range(len(facts.validation))),
                validation_mean=[recall.mean for recall in facts.validation],
                loss=facts.loss,
            )
            for index, unit in enumerate(self.graph.wanted("expert"))
            if (facts := self._measured.facts(unit, ExpertFacts))
        ]

    def _curve(self, chosen: EvaluatedSet, unit: WorkUnit) -> DistillationCurve:
        reader, distill = self._measured.committed(unit), self.experiment.distill
        curves = read_tensors(reader, "curves.safetensors")
        shared = {path.removeprefix("shared."): values for path, values in curves.items() if path.startswith("shared.")}
        steps = range(len(curves["loss"]))
        numbers = [self._learned_numbers({name: values[step] for name, values in shared.items()}) for step in steps]
        return DistillationCurve(
            pairs=chosen.pairs,
            seed=chosen.seed,
            phase=f"phase {unit.spec['phase']['number'] + 1} of {phases}" if (phases := len(distill.phases)) else "",
            loss=curves["loss"].tolist(),
            terms={path.removeprefix("terms."): v.tolist() for path, v in curves.items() if path.startswith("terms.")},
            validation=reader.facts_as(DistillationFacts).validation,
            learned={name: [of_step[name] for of_step in numbers] for name in numbers[0]} if numbers else {},
        )

    def _learned_numbers(self, shared: dict[str, Tensor]) -> dict[str, float]:
        experiment = self.experiment
        return experiment.distill.objective.learned_numbers(shared) | experiment.model.loss.learned_numbers(shared)

    def _galleries(self, published: Sequence[WorkUnit]) -> tuple[list[Gallery], list[str]]:
        """The galleries of the published sets; and a sentence for each set that was moved, removed or damaged since, which does
        not keep the tables from being written."""
        galleries, damaged = [], []
        for unit in published:
            try:
                galleries.append(self._once(self._known_galleries, unit.id, partial(self._gallery, unit)))
            except (MissingObject, DamagedObject) as error:
                mend = f"remove {prefix_of(unit.kind, unit.id)} and run again to publish the set again"
                reason = error.__cause__ if isinstance(error.__cause__, MissingObject) else error
                damaged.append(f"{self._folder(unit)} is missing or damaged ({reason}): {mend}")
        return galleries, damaged

    def _gallery(self, unit: WorkUnit) -> Gallery:
        seed = unit.inputs["distillation"].spec["seed"]
        return write_gallery(self.store, self.experiment.name, unit.id, self._folder(unit), seed)

    def _folder(self, publication: WorkUnit) -> str:
        return self._measured.committed(publication).facts_as(PublicationFacts).folder


def _distillation_in_words(distill: DistillSection) -> str:
    """For example `30 outer steps, bilevel, adam`; with phases, those of each phase."""
    each = [f"{phase.outer_steps} outer steps, {phase.objective.in_short()}" for phase in distill.of_phases()]
    if not distill.phases:
        return f"{each[0]}, {distill.optimiser}"
    return "; ".join([*(f"phase {number}: {settings}" for number, settings in enumerate(each, 1)), distill.optimiser])


def _rates_in_words(evaluation: EvaluationSection) -> str:
    """The learning rates of the own image tower's students, and of each other tower's that has rates of its own."""
    of_others = [(entry.model, entry.learning_rates) for entry in evaluation.image_models if entry.learning_rates]
    each = [", ".join(f"{rate:g}" for rate in rates) for rates in (evaluation.learning_rates, *(own for _, own in of_others))]
    return "; ".join([each[0], *(f"with {model}: {rates}" for (model, _), rates in zip(of_others, each[1:], strict=True))])


def _phases_until(distillation: WorkUnit) -> list[WorkUnit]:
    """The units of the phases of a distillation, up to this one; without phases, only this one."""
    earlier = distillation.inputs.get(EARLIER)
    return [*(_phases_until(earlier) if earlier else []), distillation]
