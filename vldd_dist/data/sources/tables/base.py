"""What a table is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """Attributes:
    position: where it begins, in the table's own unit.
    number: rows or lines since the position that reading began at.
    values: of the columns asked for, in their order; none: the row is damaged, and `fault` says how.
    """

    position: int
    number: int
    values: list[Any] | None
    fault: str = ""


class Table(ABC):
    """A table at a local path or an fsspec URL.

    Attributes:
        unit: what a person counts rows by: "line" or "row".
    """

    unit = "line"

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns. Raises DataError when the file is none of its format."""

    @abstractmethod
    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Row]:
        """The rows whose positions lie in [start, stop), in order; `start` is 0 or the position of a row.

        Raises:
            DataError: the file cannot be read further.
        """

    @abstractmethod
    def numbers_before(self, start: int) -> int:
        """Lines or rows before a position, which a row's `number` is added to."""

    def holds_images(self, column: str) -> bool:
        """Whether the cells of a column are known to be images themselves and not their paths."""
        return False

    def advice(self) -> str:
        """What else could be wrong where a column is missing; a sentence's end, or nothing."""
        return ""


class Places:
    """Names rows for people. Counting the lines before `start` takes time and is done when the first is named."""

    def __init__(self, table: Table, start: int) -> None:
        self._table, self._start = table, start

    def of(self, row: Row) -> str:
        return f"{self._table.url}: {self._table.unit} {self._before + row.number + 1}"

    @cached_property
    def _before(self) -> int:
        return self._table.numbers_before(self._start)
