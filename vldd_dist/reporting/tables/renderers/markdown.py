"""A table in GitHub's Markdown."""

import re
from collections.abc import Sequence

from vldd_dist.reporting.tables.table import Shown, Table, shown

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~])")


def markdown(table: Table) -> str:
    """The table and its notes, without the title. Markdown has only one row of headings, so the heading of a grouped column
    begins with that of its group."""
    table, marks = table.without_repeats().without_details(), table.sources()
    lines = [
        _line([escape(f"{column.group} {column.head}".strip()) for column in table.columns]),
        f"|{'|'.join('---:' if column.figures else ':---' for column in table.columns)}|",
    ]
    for title, section in table.titled_sections():
        if title:
            lines.append(_line([f"*{escape(title)}*", *[""] * (len(table.columns) - 1)]))
        lines += [_line([_cell(shown(cell, marks)) for cell in row.cells]) for row in section.rows]
    notes = table.all_notes()
    return "\n".join([*lines, *(part for note in notes for part in ("", escape(note))), ""])


def document(tables: Sequence[Table]) -> str:
    """A single table without a title, or several tables, each below its title."""
    if len(tables) == 1:
        return markdown(tables[0])
    return "\n".join(f"## {escape(table.title)}\n\n{markdown(table)}" for table in tables)


def escape(text: str) -> str:
    """The text with special characters escaped."""
    return _SPECIAL.sub(r"\\\1", text)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Shown) -> str:
    figure = escape(cell.main) + (f" ±{cell.spread}" if cell.spread else "")
    return (f"**{figure}**" if cell.best else figure) + (f" {escape(cell.mark)}" if cell.mark else "")
