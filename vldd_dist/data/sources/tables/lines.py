"""Tables in text files. The position of a row is a byte offset."""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Self

from vldd_dist.data.files.reading import reading
from vldd_dist.data.sources.tables.base import Row, RowNames, Table
from vldd_dist.errors import DataError
from vldd_dist.store.user_files.opening import open_url

# A file with a longer line is not a table of captions.
LONGEST_LINE = 16 << 20
# Beyond this position lines are not counted for an error message, because every part would read the table from its beginning.
COUNTED_BYTES = 64 << 20
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
# The first line of a CSV that was written for Excel.
_FOR_EXCEL = re.compile("sep=[!-~]?", re.IGNORECASE)
# The columns of a JSONL file are the keys of this many objects at its beginning.
OBJECTS_FOR_COLUMNS = 100


class Lines:
    """An iterator over the lines of a file that keeps track of its position.

    Attributes:
        position: byte offset at which the next line begins.
        count: lines read so far.
    """

    def __init__(self, url: str, start: int) -> None:
        self.url, self.position, self.count = url, start, 0
        with reading(f"data.source.path: {url}"):
            self._file = open_url(url, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line. Bytes that are not UTF-8 become lone surrogates, so that only the cell with them is damaged."""
        try:
            line = self._file.readline(LONGEST_LINE)
        except Exception:
            # Here, because entering `reading` for each line would take as long as reading the line.
            with reading(f"data.source.path: {self.url}"):
                raise
        if not line:
            raise StopIteration
        if len(line) == LONGEST_LINE:
            raise DataError(
                f"{self.url}: a line is longer than {LONGEST_LINE >> 20} MiB: this is not a table of captions, correct the path"
            )
        if self.position == 0:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{self.url}: its encoding is UTF-16: save it as UTF-8")
            if line.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PAR1")):
                raise DataError(f"{self.url}: this is a compressed or binary file, not text: unpack it, or correct its name")
            self.position, line = len(line), line.removeprefix(codecs.BOM_UTF8)
        else:
            self.position += len(line)
        self.count += 1
        return line.decode("utf-8", "surrogateescape")


class TextTable(Table):
    """A table whose rows are counted in lines."""

    def numbers_before(self, start: int) -> int | None:
        if start == 0:
            return 0
        if start > COUNTED_BYTES:
            return None
        with Lines(self.url, 0) as lines:
            for _ in lines:
                if lines.position >= start:
                    break
            return lines.count


class SeparatedValues(TextTable):
    """CSV with a header and any separator (RFC 4180: a quote in a quoted cell is doubled, and quoted cells may hold newlines).
    Spaces after a separator that is no white space are skipped.

    Args:
        separator: one character; None: a tab if the name ends in .tsv or the header has tabs but no comma, else a comma.
    """

    def __init__(self, url: str, separator: str | None) -> None:
        super().__init__(url)
        self._given = separator

    @cached_property
    def separator(self) -> str:
        if self._given is not None:
            return self._given
        with Lines(self.url, 0) as lines:
            line = next(lines, "")
        return "\t" if self.url.lower().endswith(".tsv") or ("\t" in line and "," not in line) else ","

    @cached_property
    def columns(self) -> list[str]:
        with Lines(self.url, 0) as lines:
            for _, _, values, fault in self._parsed(lines):
                if values is None:
                    raise DataError(f"{self.url}: its header cannot be read ({fault}): correct the header or `separator`")
                if _FOR_EXCEL.fullmatch(first := self.separator.join(values).strip()):
                    raise DataError(f"{self.url}: its first line ({first}) is for Excel only: remove it")
                return [name.strip() for name in values]
        raise DataError(f"{self.url}: the file is empty: begin it with a line of column names")

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Row]:
        names = self.columns
        indices = [names.index(name) for name in columns]
        with Lines(self.url, start) as lines:
            parsed = self._parsed(lines)
            if start == 0:
                next(parsed)
            for position, number, values, fault in parsed:
                if stop is not None and position >= stop:
                    return
                if values is not None and len(values) != len(names):
                    fault = f"{len(values)} cells under {len(names)} columns: quote cells that hold the separator"
                    values = None
                yield Row(position, number, None if values is None else [values[index] for index in indices], fault)

    def advice(self) -> str:
        counts = {separator: self.column_count(separator) for separator in SEPARATORS if separator != self.separator}
        best = max(counts, key=counts.__getitem__)
        if counts[best] <= max(len(self.columns), 1):
            return ""
        return f"; with a {SEPARATORS[best]} for `separator` there would be {counts[best]} columns"

    def column_count(self, separator: str) -> int:
        """The number of columns in the header with this separator; 0 if the header cannot be read with it."""
        try:
            return len(SeparatedValues(self.url, separator).columns)
        except DataError:
            return 0

    def _parsed(self, lines: Lines) -> Iterator[tuple[int, int, list[str] | None, str]]:
        """(position, lines before it, cells, fault) of each row that is not blank.

        Raises:
            DataError: a quoted cell probably swallowed rows, whose number is not known; or the lines end with CR only.
        """
        # `a.jpg, "A dog, running"`: after a space, a quote would be part of the cell.
        reader = csv.reader(lines, delimiter=self.separator, strict=True, skipinitialspace=not self.separator.isspace())
        while True:
            position, number = lines.position, lines.count
            try:
                cells = next(reader, None)
            except csv.Error as error:
                fault = str(error)
                if "unexpected end" in fault or "field larger" in fault:
                    raise DataError(
                        f"{self._row_at(position)}: a quoted cell that begins here does not end: close or double the quote"
                    ) from None
                if "new-line character" in fault:
                    if position == 0 and next(lines, None) is None:
                        raise DataError(f"{self.url}: its lines end with CR only: save it with LF or CRLF line ends") from None
                    fault = "a carriage return in a cell without quotes: quote the cell, or remove it"
                yield position, number, None, f"not CSV: {fault}"
                continue
            if cells is None:
                return
            # Tables with tabs are often written without quotes. Then a cell that begins with a quote ends at any later quote
            # before a separator, and holds all rows between.
            if self.separator == "\t" and any("\n" in cell and "\t" in cell for cell in cells):
                raise DataError(
                    f"{self._row_at(position)}: a quoted cell that begins here ends {lines.count - number - 1} lines later and "
                    "holds tabs: quote each cell that begins with a quote, and double the quotes in it"
                )
            if cells:
                yield position, number, cells, ""

    def _row_at(self, position: int) -> str:
        """The name of the row that begins at a position."""
        return RowNames(self, position).of(Row(position, 0, None))


class JsonLines(TextTable):
    """One JSON object per line; a key that an object lacks is a cell with None."""

    @cached_property
    def columns(self) -> list[str]:
        names: dict[str, None] = {}
        with Lines(self.url, 0) as lines:
            for number, (_, _, tree) in enumerate(islice(_objects(lines), OBJECTS_FOR_COLUMNS)):
                if number == 0 and not isinstance(tree, dict):
                    raise DataError(f"{self.url}: its first line is not a JSON object: write one object per line")
                names |= dict.fromkeys(tree if isinstance(tree, dict) else ())
        if not names:
            raise DataError(f"{self.url}: it has no JSON object, or an empty one: write one object per line")
        return list(names)

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Row]:
        with Lines(self.url, start) as lines:
            for position, number, tree in _objects(lines):
                if stop is not None and position >= stop:
                    return
                if isinstance(tree, dict):
                    yield Row(position, number, [tree.get(name) for name in columns])
                else:
                    yield Row(position, number, None, "not a JSON object")


def _objects(lines: Lines) -> Iterator[tuple[int, int, Any]]:
    """(position, lines before it, value) of each line that is not blank; the value is None if the line is not JSON."""
    while True:
        position, number = lines.position, lines.count
        line = next(lines, None)
        if line is None:
            return
        if not line.strip():
            continue
        try:
            yield position, number, json.loads(line)
        except (ValueError, RecursionError):
            yield position, number, None
