"""A table as CSV (RFC 4180) for programs: numbers are not rounded, and each standard deviation has its own column."""

import csv
import io
from collections.abc import Iterator

from vldd_dist.reporting.tables.table import Cell, Column, Number, Published, Statistic, Table, Text

SPREADS = ("std_runs", "std_students")
# Further columns of a column with published figures.
AS_PUBLISHED = ("std_published", "source")


def csv_text(table: Table) -> str:
    """The table as CSV. The first line has the names of the columns: `section` if any section has a title, and the key of each
    column. A column with statistics is followed by KEY_std_runs and KEY_std_students, and a column with published figures by
    KEY_std_published and KEY_source. Unknown values are empty. Notes are left out.
    """
    titled = any(section.title for section in table.sections)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    suffixes = [_suffixes(table, position) for position in range(len(table.columns))]
    names = [name for column, further in zip(table.columns, suffixes, strict=True) for name in _names(column, further)]
    writer.writerow([*(["section"] if titled else []), *names])
    for section in table.sections:
        for row in section.rows:
            values = [value for cell, further in zip(row.cells, suffixes, strict=True) for value in _values(cell, further)]
            writer.writerow([*([section.title] if titled else []), *values])
    return file.getvalue()


def _suffixes(table: Table, position: int) -> tuple[str, ...]:
    """The suffixes of the further CSV columns that follow this column."""
    cells = [row.cells[position] for section in table.sections for row in section.rows]
    measured = any(isinstance(cell, Statistic) for cell in cells)
    published = any(isinstance(cell, Published) for cell in cells)
    return (*(SPREADS if measured else ()), *(AS_PUBLISHED if published else ()))


def _names(column: Column, suffixes: tuple[str, ...]) -> list[str]:
    return [column.key, *(f"{column.key}_{suffix}" for suffix in suffixes)]


def _values(cell: Cell, suffixes: tuple[str, ...]) -> Iterator[str | float | None]:
    if isinstance(cell, Text):
        main: str | float = cell.text
    else:
        main = cell.value if isinstance(cell, Number) else cell.mean
    further: dict[str, str | float | None] = {}
    if isinstance(cell, Statistic):
        further = {"std_runs": cell.std_runs, "std_students": cell.std_students}
    if isinstance(cell, Published):
        further = {"std_published": cell.std, "source": cell.source}
    yield main
    yield from (further.get(suffix) for suffix in suffixes)
