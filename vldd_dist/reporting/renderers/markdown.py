"""A table in GitHub's Markdown."""

import re

from vldd_dist.reporting.table import Shown, Table, shown

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~])")


def markdown(table: Table) -> str:
    """The table and its notes, without the title. Of grouped columns each head begins with its group's: there is one row of
    heads."""
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


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Shown) -> str:
    figure = escape(cell.main) + (f" ±{cell.spread}" if cell.spread else "")
    return (f"**{figure}**" if cell.best else figure) + (f" {escape(cell.mark)}" if cell.mark else "")
