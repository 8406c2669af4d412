"""Recognising tables, and finding the columns of images, captions and splits."""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from vldd_dist.data.files.image_names import has_image_extension
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.recognise.image_folders import folder_of_images
from vldd_dist.data.sources.base import split_called
from vldd_dist.data.sources.columns import CAPTION_COLUMNS, LIST_AS_TEXT, PATH_COLUMNS, is_list_as_text
from vldd_dist.data.sources.table import EXTENSIONS
from vldd_dist.data.sources.tables.base import Table
from vldd_dist.data.sources.tables.lines import SEPARATORS, JsonLines, SeparatedValues
from vldd_dist.data.sources.tables.parquet import Parquet
from vldd_dist.errors import DataError

# Number of rows by which columns are recognised.
ROWS = 50
# Number of text files in a folder that are examined: there may be one for each image.
MOST_TEXTS = 20
SPLIT_COLUMNS = ("split", "set", "partition", "subset")
# A column with more different values than this is not one of splits.
MOST_SPLITS = 10


def table_file(path: str) -> Found | None:
    """A table with a known extension, or any text file whose header has at least two columns."""
    format = EXTENSIONS.get(path.rpartition(".")[2].lower())
    opened = _opened(path, format)
    if opened is None:
        return None
    table = opened.table
    try:
        columns = _usable_columns(table)
        rows = _first_rows(table, columns)
    except DataError:
        if format is None:
            return None
        raise
    image = _image_column(columns, rows)
    if image is None and format is None:
        return None
    if image is None:
        raise DataError(f"{path}: no column has paths of images; its columns are {', '.join(map(repr, table.columns))}")
    if _is_image(image):
        raise DataError(f"{path}: its first line is no header: begin it with column names, for example image,caption")
    captions = _caption_columns(path, [name for name in columns if name != image], rows)
    if not captions:
        raise DataError(f"{path}: no column has captions; its columns are {', '.join(map(repr, table.columns))}")
    source = {"name": "table", "path": path, **opened.settings, "image_column": image, "caption_columns": captions}
    folder = _folder_setting(table, image, [row[image] for row in rows if isinstance(row[image], str)])
    split = _split_column(table, columns, rows)
    if split is not None:
        source["split_column"] = split
    what = f"{path} is a table: images in the column {image!r}, captions in {', '.join(map(repr, captions))}"
    if folder is None:
        return Found(source, what)
    return Found(source | {"image_folder": folder}, f"{what}; the images are in {folder}")


def table_in(folder: str) -> Found | None:
    """The only table with a known extension in a folder; if there is none, the first text file that is a table."""
    names = table_names(folder)
    if not names:
        files = _files(folder)
        texts = [os.path.join(folder, name) for name in files if name.endswith(".txt")][:MOST_TEXTS]
        tables = (table_file(path) for path in texts if _can_be_opened(path))
        return next((found for found in tables if found is not None), None)
    if len(names) > 1:
        raise DataError(f"--from {folder}: it has {len(names)} tables ({', '.join(names[:5])}): name one of them")
    return table_file(os.path.join(folder, names[0]))


def table_names(folder: str) -> list[str]:
    """The tables with a known extension in a folder, sorted."""
    files = _files(folder)
    names = [name for name in files if name.rpartition(".")[2].lower() in EXTENSIONS]
    # The tables that img2dataset writes about its downloads do not name files.
    return [name for name in names if f"{name.rpartition('.')[0]}_stats.json" not in files]


def _files(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name)))


def _can_be_opened(path: str) -> bool:
    try:
        return _opened(path, None) is not None
    except DataError:
        return False


class _Opened(NamedTuple):
    """A table that could be opened.

    Attributes:
        settings: those of the source that the table's name does not show.
    """

    table: Table
    settings: dict[str, Any]


def _opened(path: str, format: str | None) -> _Opened | None:
    """The table in a file.

    Args:
        format: as the extension of its name says; None: it does not say, and the file may be no table.

    Returns:
        None if a file of unknown format is no table.

    Raises:
        DataError: a file of known format is no table with two columns.
    """
    if format == "jsonl":
        return _Opened(JsonLines(path), {})
    if format == "parquet":
        return _Opened(Parquet(path), {})
    usual = SeparatedValues(path, None)
    if format == "csv" and not usual.columns:
        raise DataError(f"{path}: its header is empty: begin the table with a line of column names")
    # Of several with as many columns, the first is taken; the source needs no setting for the usual one of a known format.
    candidates = [usual.separator, *SEPARATORS] if format else [*SEPARATORS]
    counts = {separator: usual.column_count(separator) for separator in candidates}
    best = max(counts, key=counts.__getitem__)
    if counts[best] < 2:
        if format is None:
            return None
        raise DataError(f"{path}: its header has one column, {usual.columns[0]!r}: images and captions need two columns")
    settings = {} if format else {"format": "csv"}
    if best != usual.separator:
        settings["separator"] = best
    return _Opened(SeparatedValues(path, best), settings)


def _usable_columns(table: Table) -> list[str]:
    """The columns whose names are unique and whose cells are no images."""
    return [name for name in table.columns if table.columns.count(name) == 1 and not table.holds_images(name)]


def _first_rows(table: Table, columns: list[str]) -> list[dict[str, Any]]:
    """The cells of the first rows that can be read, by column. Raises DataError if there is no such row."""
    rows = list(islice(table.rows(columns, 0, None), ROWS))
    readable = [dict(zip(columns, row.values, strict=True)) for row in rows if row.values is not None]
    if not readable:
        reason = f"none of its first rows can be read ({rows[0].fault})" if rows else "it has no rows"
        raise DataError(f"{table.url}: {reason}: its columns are {', '.join(map(repr, table.columns))}")
    return readable


def _image_column(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str | None:
    """The column whose cells are mostly names of images; if there are several, one with a usual name is preferred."""
    candidates = [name for name in columns if _mostly(_is_image(row[name]) for row in rows)]
    return next((name for name in PATH_COLUMNS if name in candidates), candidates[0] if candidates else None)


def _caption_columns(path: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The column with a usual name; if there is none, the columns whose cells are mostly texts of several words.

    Raises:
        DataError: there is more than one, and their names differ in more than a number at the end; or their cells are lists
            that are written as text.
    """
    usual = [name for name in CAPTION_COLUMNS if name in columns]
    found = usual or [name for name in columns if _mostly(_has_words(row[name]) for row in rows)]
    if len({re.sub(r"[\W_]*\d+$", "", name.lower()) for name in found}) > 1:
        raise DataError(
            f"{path}: the columns {' and '.join(map(repr, found))} could each be captions: write the description with "
            "data.source.caption_columns, see docs/own-data.md"
        )
    lists = [name for name in found if _mostly(is_list_as_text(row[name]) for row in rows)]
    if lists:
        raise DataError(f"{path}: the column {lists[0]!r} {LIST_AS_TEXT}")
    return found


def _split_column(table: Table, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str | None:
    """The column with a usual name whose cells are mostly names of splits.

    Raises:
        DataError: there is none, but one with a usual name has a few other values, which probably mean splits.
    """
    named = [name for usual in SPLIT_COLUMNS for name in columns if name.lower() == usual]
    for name in named:
        if _mostly(split_called(str(row[name])) is not None for row in rows):
            return name
    for name in named:
        values = _different_values(table, name, MOST_SPLITS + 1)
        unknown = [value for value in values if split_called(value) is None]
        if 2 <= len(values) <= MOST_SPLITS:
            raise DataError(
                f"{table.url}: the column {name!r} has the values {', '.join(map(repr, unknown))}, which name no splits: write "
                "train, val or test there, or rename the column"
            )
    return None


def _different_values(table: Table, column: str, most: int) -> list[str]:
    """The different cells of a column, as text; after `most` of them, the others are not read."""
    values: dict[str, None] = {}
    for row in table.rows([column], 0, None):
        if row.values is not None:
            cell = row.values[0]
            values["" if cell is None else str(cell).strip()] = None
        if len(values) == most:
            break
    return list(values)


def _folder_setting(table: Table, image: str, names: list[str]) -> str | None:
    """The folder of the images; None if it is the table's own. Raises DataError if the images are not found."""
    if "://" in table.url:
        return None
    cells = (row.values[0] for row in table.rows([image], 0, None) if row.values is not None)
    folder = folder_of_images(
        table.url, names, lambda: (cell for cell in cells if isinstance(cell, str)), "data.source.image_folder"
    )
    is_default = os.path.normpath(folder) == os.path.normpath(os.path.dirname(table.url) or ".")
    return None if is_default else folder


def _is_image(cell: Any) -> bool:
    """Whether a cell is a file name with the extension of an image."""
    return isinstance(cell, str) and bool(cell.rpartition(".")[0]) and has_image_extension(cell)


def _has_words(cell: Any) -> bool:
    """Whether a cell is a text, or a list of texts, of two words or more. A date has no words, and a JSON object is no text."""
    texts = cell if isinstance(cell, list) and cell else [cell]
    return all(isinstance(text, str) and _words(text) >= 2 and not _is_image(text) for text in texts)


def _words(text: str) -> int:
    return 0 if text.lstrip().startswith("{") else sum(any(map(str.isalpha, word)) for word in text.split())


def _mostly(conditions: Iterable[bool]) -> bool:
    values = list(conditions)
    return bool(values) and sum(values) > len(values) / 2
