"""Looks up the published figures that the tables of a study show beside its own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import LoadedStudy
from vldd_dist.config.study import Study
from vldd_dist.errors import ConfigError
from vldd_dist.method_names import FULL
from vldd_dist.monitoring.reports.study_layouts import layout_of
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.reporting.tables.published import PublishedTable, published_table
from vldd_dist.reporting.tables.study_tables import ALL_VARIANTS, PublishedOf, RowKey
from vldd_dist.reporting.tables.table import Published


@dataclass(frozen=True)
class _Source:
    """A published table with which variants of a study are compared.

    Attributes:
        name: of the published table.
        variants: variant of the study -> the variant of the published table with which it is compared.
        budgets: as of `Layout`.
    """

    name: str
    table: PublishedTable
    variants: Mapping[str, str]
    budgets: Mapping[int, int]

    def figure(self, variant: str, key: RowKey, metric: str) -> Published | None:
        """The figure of this variant for a row, at the budget of the row; None if there is none."""
        if variant not in self.variants:
            return None
        pairs = self.budgets.get(key.pairs, key.pairs)
        return self.table.cell(self.variants[variant], key.method, pairs, metric, key.image_model)


def published_of(study: Study, table: str) -> PublishedOf:
    """A function that finds the published figure for a cell of this table, in the first of the named published tables that
    has it.

    Raises:
        ConfigError: there is no published table with one of the names, or it has several variants, none of the name of the
            variant that is compared with it.
    """
    variants, sources = _variants(study, table), list(_sources(study, table))

    def published(key: RowKey, metric: str) -> Published | None:
        # A result that all variants share may be published for any of them.
        of_row = variants if key.variant == ALL_VARIANTS else [key.variant]
        cells = (source.figure(variant, key, metric) for source in sources for variant in of_row)
        return next((found for found in cells if found is not None), None)

    return published


def check_published(study: LoadedStudy) -> None:
    """Check before anything runs that each table of the study has a figure from each published table that it names.

    Raises:
        ConfigError: as `published_of`, or a published table has no figure for any row.
    """
    for name, settings in study.study.table_settings().items():
        layout = layout_of(settings, list(study.experiments))
        planned = (key for variant in layout.variants for key in _planned_rows(variant, study.experiments[variant]))
        rows = [key for key in planned if layout.shows(key)]
        for source in _sources(study.study, name):
            if not any(source.figure(key.variant, key, metric) for key in rows for metric in layout.metrics):
                compared = "this table" if len(source.variants) > 1 else next(iter(source.variants))
                raise ConfigError(
                    f"tables.{name}.published: {source.name} has no figure for any row of {compared} (`vldd published "
                    f"{source.name}` shows its own): remove it, or write {{VARIANT: [{source.name}]}} for a variant to compare"
                )


def _planned_rows(variant: str, experiment: Experiment) -> Iterator[RowKey]:
    """The rows that the variant's results can have. The number of pairs of full data is not known."""
    yield RowKey(variant, FULL, 0, None)
    for evaluated in evaluated_sets(experiment):
        for _, row in evaluated.rows(experiment.model.image.model):
            yield RowKey(variant, *row)


def _variants(study: Study, table: str) -> list[str]:
    return study.table_settings()[table].variants or list(study.changes())


def _sources(study: Study, table: str) -> Iterator[_Source]:
    settings = study.table_settings()[table]
    if isinstance(settings.published, dict):
        for variant, names in settings.published.items():
            for name in names:
                source = _published_table(name, table)
                yield _Source(name, source, {variant: _theirs(source, name, variant, table)}, settings.budgets)
    else:
        variants = _variants(study, table)
        for name in settings.published or []:
            yield _Source(name, _published_table(name, table), dict(zip(variants, variants, strict=True)), settings.budgets)


def _published_table(name: str, table: str) -> PublishedTable:
    try:
        return published_table(name)
    except ValueError as error:
        raise ConfigError(f"tables.{table}.published: {error}") from None


def _theirs(source: PublishedTable, name: str, variant: str, table: str) -> str:
    """The variant of the published table with which a variant is compared: that of the same name, or its only one."""
    names = source.variants()
    if variant in names:
        return variant
    if len(names) > 1:
        raise ConfigError(
            f"tables.{table}.published.{variant}: {name} has the variants {', '.join(names)}: give yours one of these names"
        )
    return names[0]
