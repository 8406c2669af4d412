"""A table as CSV (RFC 4180) for programs: numbers as they were measured, nothing rounded, a column for each spread."""

import csv
import io
from collections.abc import Iterator

from vldd_dist.reporting.table import Cell, Column, Number, Published, Statistic, Table, Text

SPREADS = ("std_runs", "std_students")
# Of columns that hold a published figure.
AS_PUBLISHED = ("std_published", "source")


def csv_text(table: Table) -> str:
    """The first line has names: `section` if a section has a title; of each column its key, of statistics KEY_std_runs and
    KEY_std_students too, of published figures KEY_std_published and KEY_source. What is not known is empty; notes are left out.
    """
    titled = any(section.title for section in table.sections)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = [_parts(table, position) for position in range(len(table.columns))]
    names = [_names(column, found) for column, found in zip(table.columns, parts, strict=True)]
    writer.writerow([*(["section"] if titled else []), *(name for found in names for name in found)])
    for section in table.sections:
        for row in section.rows:
            cells = [value for cell, found in zip(row.cells, parts, strict=True) for value in _values(cell, found)]
            writer.writerow([*([section.title] if titled else []), *cells])
    return file.getvalue()


def _parts(table: Table, position: int) -> tuple[str, ...]:
    """What the column has beside its means."""
    cells = [row.cells[position] for section in table.sections for row in section.rows]
    measured = any(isinstance(cell, Statistic) for cell in cells)
    published = any(isinstance(cell, Published) for cell in cells)
    return (*(SPREADS if measured else ()), *(AS_PUBLISHED if published else ()))


def _names(column: Column, parts: tuple[str, ...]) -> list[str]:
    return [column.key, *(f"{column.key}_{part}" for part in parts)]


def _values(cell: Cell, parts: tuple[str, ...]) -> Iterator[str | float | None]:
    if isinstance(cell, Text):
        main: str | float = cell.text
    else:
        main = cell.value if isinstance(cell, Number) else cell.mean
    beside: dict[str, str | float | None] = {}
    if isinstance(cell, Statistic):
        beside = {"std_runs": cell.std_runs, "std_students": cell.std_students}
    if isinstance(cell, Published):
        beside = {"std_published": cell.std, "source": cell.source}
    yield main
    yield from (beside.get(part) for part in parts)
