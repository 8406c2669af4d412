"""A table for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import table as rich_table
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from vldd_dist.reporting.tables.table import Shown, Table, shown

# The space between two columns.
GAP = 2


@dataclass(frozen=True)
class TerminalTable:
    """A table for a rich console's `print`. The best figures are bold, and section titles have their own column. Words are
    broken only if the terminal is too narrow for the longest word of each column. Text is never read as markup."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self.table.without_repeats().without_details()
        titled, marks = any(section.title for section in table.sections), table.sources()
        sections = [
            [
                [*([Text(title if number == 0 else "")] if titled else []), *(_text(shown(cell, marks)) for cell in row.cells)]
                for number, row in enumerate(section.rows)
            ]
            for title, section in table.titled_sections()
        ]
        heads = [*([""] if titled else []), *_heads(table)]
        right = [*([False] if titled else []), *(column.figures for column in table.columns)]
        texts = [[head, *(row[i].plain for rows in sections for row in rows)] for i, head in enumerate(heads)]
        title, notes = Text(table.title, style="table.title"), Text("\n".join(table.all_notes()))
        drawn = rich_table.Table(title=title, caption=notes, box=SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for head, figures, width in zip(heads, right, _widths(texts, options.max_width), strict=True):
            justify: Literal["left", "right"] = "right" if figures else "left"
            drawn.add_column(Text(head), justify=justify, overflow="fold", width=width)
        for rows in sections:
            for row in rows:
                drawn.add_row(*row)
            drawn.add_section()
        yield drawn


def _widths(texts: Sequence[Sequence[str]], space: int) -> Sequence[int | None]:
    """The width of each column: wide enough for its longest word and, from left to right as long as there is space, for its
    longest line. None for all columns if there is not even space for the words; rich then breaks them evenly.

    Args:
        texts: for each column, its heading and its cells.
        space: width of the terminal.
    """
    words = [max((Text(word).cell_len for text in column for word in text.split()), default=0) for column in texts]
    lines = [max(Text(line).cell_len for text in column for line in text.split("\n")) for column in texts]
    spare = space - sum(words) - GAP * (len(texts) + 1)
    if spare < 0:
        return [None] * len(texts)
    widths = []
    for word, line in zip(words, lines, strict=True):
        widths.append(min(line, word + spare))
        spare -= widths[-1] - word
    return widths


def _heads(table: Table) -> list[str]:
    """The headings. If there are groups, each has a line above, with the group's name over its first column."""
    groups = [line for group, width in table.head_groups() for line in (group, *[""] * (width - 1))]
    above = [f"{group}\n" if any(groups) else "" for group in groups]
    return [group + column.head for group, column in zip(above, table.columns, strict=True)]


def _text(cell: Shown) -> Text:
    spread = f"±{cell.spread}" if cell.spread else ""
    return Text(" ".join(filter(None, [cell.main, spread, cell.mark])), style="bold" if cell.best else "")
