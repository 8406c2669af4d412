"""The report as one self-contained HTML page, without scripts or external resources."""

from collections.abc import Sequence
from urllib.parse import quote

from markupsafe import Markup

from vldd_dist.method_names import display_name
from vldd_dist.reporting.data import Gallery, ReportData
from vldd_dist.reporting.figures.drawing import Plot
from vldd_dist.reporting.figures.experiment_figures import plots
from vldd_dist.reporting.pages.html_environment import html_environment
from vldd_dist.reporting.tables.recall_table import comparisons
from vldd_dist.reporting.tables.table import Table, shown

STATES = {"running": "running", "done": "done", "failed": "failed", "stopped": "interrupted"}
# The path from a report's folder, report/NAME/, to the store.
TO_STORE = "../../"


def render_html(data: ReportData, tables: Sequence[Table], applications: Sequence[Table], charts: Sequence[Plot] = ()) -> str:
    """The page as HTML. All data in it is escaped.

    Args:
        tables: the recall tables.
        applications: tables of the applications that have run.
        charts: figures to show before those of `data`.
    """
    compared, own = comparisons(data.rows), [(plot, Markup(plot.svg)) for plot in plots(data)]
    # With distilled pairs to compare, the first figure is that of recall.
    first = own.pop(0) if compared else None
    return (
        html_environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            states=STATES,
            tables=[table.without_repeats() for table in tables],
            applications=[table.without_repeats() for table in applications],
            comparisons=compared,
            first=first,
            plots=[*((plot, Markup(plot.svg)) for plot in charts), *own],
            in_store=lambda key: TO_STORE + quote(key),
            display_name=display_name,
            shown=shown,
        )
    )


def render_pairs_page(name: str, gallery: Gallery, own: str, report: str) -> str:
    """One of the pages that show more pairs of a distilled set than the report's page.

    Args:
        name: of the experiment.
        own: path of this page, as in `gallery.pages`.
        report: path of the report's page, from the folder of this page.
    """
    last = gallery.first + len(gallery.items)
    title = f"{gallery.pairs:,} pairs, seed {gallery.seed}: {gallery.first + 1:,} to {last:,}"
    return (
        html_environment().get_template("pairs.html.j2").render(name=name, title=title, gallery=gallery, own=own, report=report)
    )
