"""The report as one self-contained HTML page: no script, no external resource."""

from collections.abc import Sequence
from urllib.parse import quote

from markupsafe import Markup

from vldd_dist.reporting.data import Gallery, ReportData, display_name
from vldd_dist.reporting.drawing import Plot
from vldd_dist.reporting.html_environment import html_environment
from vldd_dist.reporting.plots import RECALL_PLOT, plots
from vldd_dist.reporting.table import Table, shown
from vldd_dist.reporting.tables import comparisons, recall_table

STATES = {"running": "running", "done": "done", "failed": "failed", "stopped": "interrupted"}
# From the folder of a report, report/NAME/, to the store.
TO_STORE = "../../"


def render_html(
    data: ReportData, tables: Sequence[Table] | None = None, applications: Sequence[Table] = (), charts: Sequence[Plot] = ()
) -> str:
    """The page as a string; all data in it is escaped.

    Args:
        tables: none: one of the report's rows.
        applications: the tables of those that have run.
        charts: drawn before the figures of the data.
    """
    if tables is None:
        tables = [recall_table(data)] if data.rows else []
    drawn = [(plot, Markup(plot.svg)) for plot in (*charts, *plots(data))]
    first = next(((plot, svg) for plot, svg in drawn if plot.title == RECALL_PLOT), None)
    return (
        html_environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            states=STATES,
            tables=[table.without_repeats() for table in tables],
            applications=[table.without_repeats() for table in applications],
            comparisons=comparisons(data.rows),
            first=first,
            plots=[(plot, svg) for plot, svg in drawn if plot.title != RECALL_PLOT],
            in_store=lambda key: TO_STORE + quote(key),
            display_name=display_name,
            shown=shown,
        )
    )


def render_pairs_page(name: str, gallery: Gallery, own: str, report: str) -> str:
    """One of the pages that show all pairs of a distilled set.

    Args:
        name: of the experiment.
        own, report: paths of this page as `gallery.pages` has it, and of the report, both from this page's folder.
    """
    last = gallery.first + len(gallery.items)
    title = f"{gallery.pairs:,} pairs, seed {gallery.seed}: {gallery.first + 1:,} to {last:,}"
    return (
        html_environment().get_template("pairs.html.j2").render(name=name, title=title, gallery=gallery, own=own, report=report)
    )
