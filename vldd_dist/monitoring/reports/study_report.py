"""Writes the report of a study: its tables, from the committed units of all variants."""

from collections.abc import Sequence
from dataclasses import replace

from vldd_dist.config.study import Study, TableSettings
from vldd_dist.monitoring.reports.budgets import compared_sizes, sizes_with_similarity
from vldd_dist.monitoring.reports.measured import Measured
from vldd_dist.monitoring.reports.published_figures import published_of
from vldd_dist.monitoring.reports.report_files import PAGE, key_of, write_tables
from vldd_dist.monitoring.reports.study_layouts import layout_of
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.reporting.data import ReportData, RunProgress
from vldd_dist.reporting.figures.study_figures import study_plots
from vldd_dist.reporting.pages.report_page import render_html
from vldd_dist.reporting.tables.study_tables import Layout, study_table
from vldd_dist.reporting.tables.table import Table
from vldd_dist.store.store import Store


class StudyReporter:
    """Writes reports of a study.

    Raises:
        ConfigError: as `published_of`.
    """

    def __init__(self, study: Study, graph: StudyGraph, store: Store) -> None:
        self.study, self.graph, self.store = study, graph, store
        self._units = graph.units()
        self._experiments = {variant: of_variant.experiment for variant, of_variant in graph.graphs.items()}
        self._measured = Measured(store)
        self._published = {name: published_of(study, name) for name in study.table_settings()}

    def write(self, progress: RunProgress | None = None, failures: Sequence[tuple[WorkUnit, Outcome]] = ()) -> list[Table]:
        """Read newly committed units, and write the report.

        Raises:
            StoreError: a read or write failed.
        """
        self._measured.refresh(self._units)
        rows = {variant: self._measured.rows(graph) for variant, graph in self.graph.graphs.items()}
        missing = {variant: self._measured.missing(graph) for variant, graph in self.graph.graphs.items()}
        layouts = {name: self._layout(settings) for name, settings in self.study.table_settings().items()}
        splits = self._measured.test_splits(self.graph.graphs)
        tables = {name: study_table(layout, rows, self._published[name], missing, splits) for name, layout in layouts.items()}
        applications = {
            f"{variant}-{name}": table
            for variant, graph in self.graph.graphs.items()
            for name, table in self._measured.application_tables(graph).items()
        }
        write_tables(self.store, self.study.name, tables | applications)
        page = render_html(
            self._data(progress, failures),
            list(tables.values()),
            list(applications.values()),
            study_plots(list(layouts.values()), rows, missing, splits),
        )
        self.store.write(self.page, page.encode())
        return [*tables.values(), *applications.values()]

    @property
    def page(self) -> str:
        """Key of the page in the store."""
        return key_of(self.study.name, PAGE)

    def _data(self, progress: RunProgress | None, failures: Sequence[tuple[WorkUnit, Outcome]]) -> ReportData:
        return ReportData(
            name=self.study.name,
            description={variant: self._changes(variant) for variant in self.graph.graphs},
            rows=[],
            experts=[],
            distillations=[],
            galleries=[],
            failures=[(unit.label, outcome.cause) for unit, outcome in failures],
            progress=progress,
            store=self.store.url,
            distilled_sets=[one for graph in self.graph.graphs.values() for one in self._measured.published(graph)],
            costs=self._measured.costs(self._units),
        )

    def _layout(self, settings: TableSettings) -> Layout:
        sizes = compared_sizes(settings, self._experiments, self._text_dim)
        with_similarity = {
            variant: sizes_with_similarity(experiment, dim)
            for variant, experiment in self._experiments.items()
            if (dim := self._text_dim(variant)) is not None
        }
        return replace(layout_of(settings, list(self._experiments)), sizes=sizes, similarity_sizes=with_similarity)

    def _text_dim(self, variant: str) -> int | None:
        """Size of the variant's caption embeddings; None before they are committed."""
        return self._measured.text_dim(self.graph.graphs[variant])

    def _changes(self, variant: str) -> str:
        """The settings in which the variant differs from the base, as text."""
        changes = self.study.changes()[variant]
        return ", ".join(f"{key}: {value}" for key, value in changes.items()) or "the base"
