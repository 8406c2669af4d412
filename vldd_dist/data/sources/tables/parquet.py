"""Tables in parquet files. The position of a row is its number."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from vldd_dist.data.sources.tables.base import Row, Table
from vldd_dist.errors import DataError, message_of
from vldd_dist.store.user_files.opening import open_seekable
from vldd_dist.store.user_files.reachability import check_reachable

# Rows that are converted to Python values at a time.
BATCH_ROWS = 1024


class Parquet(Table):
    """A parquet file, read one row group at a time. Only the requested columns are read."""

    unit = "row"

    @cached_property
    def columns(self) -> list[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Row]:
        with self._open() as file:
            first = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if first + count > start and (stop is None or first < stop):
                    yield from self._rows_of_group(file, group, list(columns), first, start, stop)
                first += count

    def numbers_before(self, start: int) -> int:
        return start

    def holds_images(self, column: str) -> bool:
        import pyarrow

        with self._open() as file:
            kind = file.schema_arrow.field(self.columns.index(column)).type
        return pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    @staticmethod
    def _rows_of_group(file: Any, group: int, columns: list[str], first: int, start: int, stop: int | None) -> Iterator[Row]:
        """The rows of a group, whose first row has the number `first`, with numbers in [start, stop)."""
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            low = max(start - first, 0)
            high = batch.num_rows if stop is None else min(stop - first, batch.num_rows)
            if low < high:
                part = batch.slice(low, high - low)
                cells = [part.column(part.schema.get_field_index(name)).to_pylist() for name in columns]
                for offset, values in enumerate(zip(*cells, strict=True)):
                    position = first + low + offset
                    yield Row(position, position - start, list(values))
            first += batch.num_rows

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The open file. Raises DataError for any error, also of the `with` block, except what `check_reachable` raises for
        faults of the network or the machine."""
        import pyarrow.parquet

        try:
            with open_seekable(self.url) as opened, pyarrow.parquet.ParquetFile(opened) as file:
                yield file
        except (DataError, GeneratorExit):
            raise
        except Exception as error:
            check_reachable(f"data.source.path: {self.url}", error)
            if isinstance(error, OSError):
                reason = error.strerror or message_of(error)
                raise DataError(
                    f"data.source.path: {self.url} cannot be read ({reason}): correct the path or the file"
                ) from None
            raise DataError(
                f"{self.url}: not a complete parquet file ({message_of(error)}): correct the path or `format`"
            ) from None
