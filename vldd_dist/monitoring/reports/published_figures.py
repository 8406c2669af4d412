"""Looks up the published figures that the tables of a study show beside its own."""

from vldd_dist.config.study import Study
from vldd_dist.errors import ConfigError
from vldd_dist.reporting.published import published_table
from vldd_dist.reporting.study_tables import ALL_VARIANTS, PublishedOf, RowKey
from vldd_dist.reporting.table import Published


def published_of(study: Study, table: str) -> PublishedOf:
    """A function that finds the published figure for a cell of this table, in the first of the named published tables that
    has it.

    Raises:
        ConfigError: there is no published table with one of the names.
    """
    settings = study.table_settings()[table]
    try:
        sources = [published_table(name) for name in settings.published or []]
    except ValueError as error:
        raise ConfigError(f"tables.{table}.published: {error}") from None

    def published(key: RowKey, metric: str) -> Published | None:
        # A result that all variants share may be published for any of them.
        variants = settings.variants or list(study.changes()) if key.variant == ALL_VARIANTS else [key.variant]
        cell = key.method, key.pairs, metric, key.image_model
        cells = (source.cell(variant, *cell) for source in sources for variant in variants)
        return next((found for found in cells if found is not None), None)

    return published


def check_published(study: Study) -> None:
    """Check the names of published tables before anything runs. Raises ConfigError as `published_of` does."""
    for table in study.table_settings():
        published_of(study, table)
