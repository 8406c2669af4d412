"""Published figures beside the tables of a study."""

from vldd_dist.config.study import Study
from vldd_dist.errors import ConfigError
from vldd_dist.reporting.published import published_table
from vldd_dist.reporting.study_tables import PublishedOf, Question
from vldd_dist.reporting.table import Published


def published_of(study: Study, table: str) -> PublishedOf:
    """The figures to set beside those of a table; of several published tables the first that has one.

    Raises:
        ConfigError: there is no published table of a name that is asked for.
    """
    try:
        asked = [published_table(name) for name in study.table_settings()[table].published or []]
    except ValueError as error:
        raise ConfigError(f"tables.{table}.published: {error}") from None

    def published(question: Question, metric: str) -> Published | None:
        key = question.variant, question.method, question.pairs, metric, question.image_model
        return next((cell for one in asked if (cell := one.cell(*key)) is not None), None)

    return published


def check_published(study: Study) -> None:
    """Raises ConfigError as `published_of`, before anything runs."""
    for table in study.table_settings():
        published_of(study, table)
