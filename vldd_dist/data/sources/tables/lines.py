"""Tables in text files, of which a position is a byte."""

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Self

from vldd_dist.data.files.range_reader import open_shard
from vldd_dist.data.files.shards import reading
from vldd_dist.data.sources.tables.base import Row, Table
from vldd_dist.errors import DataError

# A longer line belongs to no table of captions.
LONGEST_LINE = 16 << 20
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
# Objects of a JSONL file that are looked at for the names of its columns.
OBJECTS_FOR_COLUMNS = 100


class Lines:
    """An iterator over the lines of a file, which knows how far it is.

    Attributes:
        position: byte of the file at which the next line begins.
        taken: lines so far.
    """

    def __init__(self, url: str, start: int) -> None:
        self.url, self.position, self.taken = url, start, 0
        with reading(f"data.source.path: {url}"):
            self._file = open_shard(url, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Bytes that are no UTF-8 become lone surrogates, so that only the cell that holds them is damaged."""
        try:
            line = self._file.readline(LONGEST_LINE)
        except Exception:
            # Entering the block for each line would take as long as reading it.
            with reading(f"data.source.path: {self.url}"):
                raise
        if not line:
            raise StopIteration
        if len(line) == LONGEST_LINE:
            raise DataError(f"{self.url}: a line is longer than {LONGEST_LINE >> 20} MiB: this is no table of captions")
        if self.position == 0:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{self.url}: its encoding is UTF-16: save it as UTF-8")
            if line.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PAR1")):
                raise DataError(
                    f"{self.url}: this is no text file but a compressed or binary one: unpack it, or correct its name"
                )
            self.position, line = len(line), line.removeprefix(codecs.BOM_UTF8)
        else:
            self.position += len(line)
        self.taken += 1
        return line.decode("utf-8", "surrogateescape")


class TextTable(Table):
    """Counts lines for people."""

    def numbers_before(self, start: int) -> int:
        if start == 0:
            return 0
        with Lines(self.url, 0) as lines:
            for _ in lines:
                if lines.position >= start:
                    break
            return lines.taken


class SeparatedValues(TextTable):
    """CSV (RFC 4180: quotes are doubled within quotes, which may hold newlines) with a header, by any separator.

    Args:
        separator: one character; none: a tab where the name ends in .tsv or the header has tabs but no comma, else a comma.
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
                    raise DataError(f"{self.url}: its header cannot be read ({fault}): correct it or `separator`")
                return [name.strip() for name in values]
        raise DataError(f"{self.url}: it is empty: a table begins with the names of its columns")

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Row]:
        names = self.columns
        wanted = [names.index(name) for name in columns]
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
                yield Row(position, number, None if values is None else [values[index] for index in wanted], fault)

    def advice(self) -> str:
        more = {separator: self._count(separator) for separator in SEPARATORS if separator != self.separator}
        best = max(more, key=more.__getitem__)
        if more[best] <= max(len(self.columns), 1):
            return ""
        return f"; with a {SEPARATORS[best]} for `separator` there would be {more[best]} columns"

    def _count(self, separator: str) -> int:
        try:
            return len(SeparatedValues(self.url, separator).columns)
        except DataError:
            return 0

    def _parsed(self, lines: Lines) -> Iterator[tuple[int, int, list[str] | None, str]]:
        """(position, lines before, cells, fault) of each row that is not blank."""
        reader = csv.reader(lines, delimiter=self.separator, strict=True)
        while True:
            position, number = lines.position, lines.taken
            try:
                cells = next(reader, None)
            except csv.Error as error:
                fault = str(error)
                if "unexpected end" in fault or "field larger" in fault:
                    where = f"{self.url}: line {self.numbers_before(position) + 1 if position else 1}"
                    raise DataError(
                        f"{where}: a quoted cell that begins here does not end: close or double the quote"
                    ) from None
                if "new-line character" in fault:
                    raise DataError(f"{self.url}: its lines end with CR alone: save it with LF or CRLF") from None
                yield position, number, None, f"not CSV: {fault}"
                continue
            if cells is None:
                return
            if cells:
                yield position, number, cells, ""


class JsonLines(TextTable):
    """One JSON object a line; what an object lacks is None."""

    @cached_property
    def columns(self) -> list[str]:
        found: dict[str, None] = {}
        with Lines(self.url, 0) as lines:
            for number, (_, _, tree) in enumerate(islice(_objects(lines), OBJECTS_FOR_COLUMNS)):
                if number == 0 and not isinstance(tree, dict):
                    raise DataError(f"{self.url}: its first line is no JSON object: write one object a line")
                found |= dict.fromkeys(tree if isinstance(tree, dict) else ())
        if not found:
            raise DataError(f"{self.url}: it has no JSON object, or an empty one: write one object a line")
        return list(found)

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Row]:
        with Lines(self.url, start) as lines:
            for position, number, tree in _objects(lines):
                if stop is not None and position >= stop:
                    return
                if isinstance(tree, dict):
                    yield Row(position, number, [tree.get(name) for name in columns])
                else:
                    yield Row(position, number, None, "no JSON object")


def _objects(lines: Lines) -> Iterator[tuple[int, int, Any]]:
    """(position, lines before, value) of each line that is not blank; the value of one that is no JSON is None."""
    while True:
        position, number = lines.position, lines.taken
        line = next(lines, None)
        if line is None:
            return
        if not line.strip():
            continue
        try:
            yield position, number, json.loads(line)
        except (ValueError, RecursionError):
            yield position, number, None
