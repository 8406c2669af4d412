"""The interface of tables: rows that are read from a position on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        position: where the row begins, in the table's own unit (bytes or rows).
        number: rows or lines between the position at which reading began and this row.
        values: the cells of the requested columns, in their order; None: the row is damaged, and `fault` says how.
    """

    position: int
    number: int
    values: list[Any] | None
    fault: str = ""


class Table(ABC):
    """A table at a local path or an fsspec URL.

    Attributes:
        unit: the unit in which messages count rows: "line" or "row".
    """

    unit = "line"

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns. Raises DataError if the file does not have this format."""

    @abstractmethod
    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Row]:
        """The rows with positions in [start, stop), in order; `start` is 0 or the position of a row.

        Raises:
            DataError: the rest of the file cannot be read.
        """

    @abstractmethod
    def numbers_before(self, start: int) -> int | None:
        """The number of lines or rows before a position, to which a row's `number` is added; None: counting them takes too
        long."""

    def holds_images(self, column: str) -> bool:
        """Whether the cells of a column are known to be images rather than their paths."""
        return False

    def advice(self) -> str:
        """The end of an error about a missing column: what else could be wrong with the table, or an empty text."""
        return ""


class RowNames:
    """Names of rows for error messages. The lines before `start` are counted only when the first name is needed, and not if it
    is far into the table."""

    def __init__(self, table: Table, start: int) -> None:
        self._table, self._start = table, start

    def of(self, row: Row) -> str:
        """For example `pairs.csv: line 17` or `pairs.csv: the row at byte 1,234,567`."""
        if self._before is None:
            return f"{self._table.url}: the row at byte {row.position:,}"
        return f"{self._table.url}: {self._table.unit} {self._before + row.number + 1}"

    @cached_property
    def _before(self) -> int | None:
        return self._table.numbers_before(self._start)
