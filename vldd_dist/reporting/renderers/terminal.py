"""A table for a terminal."""

from rich import table as rich_table
from rich.box import SIMPLE_HEAD
from rich.text import Text as Line

from vldd_dist.reporting.table import Shown, Table, shown


def terminal(table: Table) -> rich_table.Table:
    """For a console's `print`; the best figures are bold. Text is never read as markup."""
    table = table.without_repeats().without_details()
    notes = Line("\n".join(table.all_notes()))
    drawn = rich_table.Table(title=Line(table.title, style="table.title"), caption=notes, box=SIMPLE_HEAD, pad_edge=False)
    for head, column in zip(_heads(table), table.columns, strict=True):
        drawn.add_column(Line(head), justify="right" if column.figures else "left", overflow="fold")
    marks = table.sources()
    for title, section in table.titled_sections():
        if title:
            drawn.add_row(Line(title, style="italic"))
        for row in section.rows:
            drawn.add_row(*(_line(shown(cell, marks)) for cell in row.cells))
        drawn.add_section()
    return drawn


def _heads(table: Table) -> list[str]:
    """With a line above for the groups, if there are any, which stands over the first column of each."""
    groups = [line for group, width in table.head_groups() for line in (group, *[""] * (width - 1))]
    above = [f"{group}\n" if any(groups) else "" for group in groups]
    return [group + column.head for group, column in zip(above, table.columns, strict=True)]


def _line(cell: Shown) -> Line:
    spread = f"±{cell.spread}" if cell.spread else ""
    return Line(" ".join(filter(None, [cell.main, spread, cell.mark])), style="bold" if cell.best else "")
