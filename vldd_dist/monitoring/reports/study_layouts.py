"""The layout of a study's table, from its settings."""

from collections.abc import Sequence

from vldd_dist.config.study import TableSettings
from vldd_dist.reporting.tables.study_tables import Layout


def layout_of(settings: TableSettings, variants: Sequence[str]) -> Layout:
    """The layout of the table.

    Args:
        variants: names of all variants of the study, of which the table shows all if its settings name none.
    """
    return Layout(
        title=settings.title,
        variants=settings.variants or list(variants),
        methods=settings.methods,
        pairs=settings.pairs,
        budgets=settings.budgets,
        other_image_models=settings.image_models == "all",
        across=settings.across,
        metrics=list(settings.metrics),
    )
