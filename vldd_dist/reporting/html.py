"""The report as one self-contained HTML page: no script, no external resource."""

import struct
from collections.abc import Sequence

from markupsafe import Markup

from vldd_dist.reporting.data import ReportData, display_name
from vldd_dist.reporting.html_environment import html_environment
from vldd_dist.reporting.plots import plots
from vldd_dist.reporting.table import Table, shown
from vldd_dist.reporting.tables import comparisons, recall_table

STATES = {"running": "running", "done": "done", "failed": "failed", "stopped": "interrupted"}
# Narrower images are enlarged pixel by pixel, not smoothed.
SMALL_WIDTH = 128


def render_html(data: ReportData, tables: Sequence[Table] | None = None, applications: Sequence[Table] = ()) -> str:
    """The page as a string; all data in it is escaped.

    Args:
        tables: none: one of the report's rows.
        applications: the tables of those that have run.
    """
    if tables is None:
        tables = [recall_table(data)] if data.rows else []
    environment = html_environment()
    environment.filters["is_small"] = _is_small
    return environment.get_template("report.html.j2").render(
        data=data,
        states=STATES,
        tables=[table.without_repeats() for table in tables],
        applications=[table.without_repeats() for table in applications],
        comparisons=comparisons(data.rows),
        plots=[(plot, Markup(plot.svg)) for plot in plots(data)],
        display_name=display_name,
        shown=shown,
    )


def _is_small(png: bytes) -> bool:
    # PNG: 8 bytes of signature, 4 of chunk length, 4 of chunk type, then the width.
    (width,) = struct.unpack_from(">I", png, 16)
    return width < SMALL_WIDTH
