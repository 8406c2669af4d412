"""Published figures beside the tables of a study."""

from vldd_dist.config.study import Study
from vldd_dist.errors import ConfigError
from vldd_dist.reporting.published import published_table
from vldd_dist.reporting.study_tables import ALL_VARIANTS, PublishedOf, Question
from vldd_dist.reporting.table import Published


def published_of(study: Study, table: str) -> PublishedOf:
    """The figures to set beside those of a table; of several published tables the first that has one.

    Raises:
        ConfigError: there is no published table of a name that is asked for.
    """
    settings = study.table_settings()[table]
    try:
        asked = [published_table(name) for name in settings.published or []]
    except ValueError as error:
        raise ConfigError(f"tables.{table}.published: {error}") from None

    def published(question: Question, metric: str) -> Published | None:
        # What all variants have in common may be published of any of them.
        variants = settings.variants or list(study.changes()) if question.variant == ALL_VARIANTS else [question.variant]
        key = question.method, question.pairs, metric, question.image_model
        cells = (one.cell(variant, *key) for one in asked for variant in variants)
        return next((cell for cell in cells if cell is not None), None)

    return published


def check_published(study: Study) -> None:
    """Raises ConfigError as `published_of`, before anything runs."""
    for table in study.table_settings():
        published_of(study, table)
