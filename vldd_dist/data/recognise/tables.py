"""Recognising tables, and which of their columns are meant."""

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from vldd_dist.data.files.shards import IMAGE_EXTENSIONS
from vldd_dist.data.recognise.found import Found, folder_of_images
from vldd_dist.data.sources.base import SPLIT_OF
from vldd_dist.data.sources.columns import CAPTION_COLUMNS, PATH_COLUMNS
from vldd_dist.data.sources.table import EXTENSIONS
from vldd_dist.data.sources.tables.base import Table
from vldd_dist.data.sources.tables.lines import SEPARATORS, JsonLines, SeparatedValues
from vldd_dist.data.sources.tables.parquet import Parquet
from vldd_dist.errors import DataError

# Rows that are looked at.
ROWS = 50
# Text files of a folder that are looked at; with images there may be one each.
MOST_TEXTS = 20
SPLIT_COLUMNS = ("split", "set", "partition", "subset")


def table(path: str) -> Found | None:
    """A table by its name's ending, or any text file that has a header with two columns at least."""
    format = EXTENSIONS.get(path.rpartition(".")[2].lower())
    opened, settings = _opened(path, format)
    if opened is None:
        return None
    try:
        rows = _first_rows(opened)
        columns = [name for name in opened.columns if opened.columns.count(name) == 1 and not opened.holds_images(name)]
    except DataError:
        if format is None:
            return None
        raise
    image = _image_column(columns, rows)
    if image is None and format is None:
        return None
    if image is None:
        raise DataError(f"{path}: no column has paths of images; its columns are {', '.join(map(repr, opened.columns))}")
    captions = _caption_columns([name for name in columns if name != image], rows)
    if not captions:
        raise DataError(f"{path}: no column has captions; its columns are {', '.join(map(repr, opened.columns))}")
    source = {"name": "table", "path": path, **settings, "image_column": image, "caption_columns": captions}
    source |= _folder_setting(opened, image, [row[image] for row in rows if isinstance(row[image], str)])
    split = _split_column(columns, rows)
    if split is not None:
        source["split_column"] = split
    return Found(source, f"{path} is a table: images in the column {image!r}, captions in {', '.join(map(repr, captions))}")


def table_in(folder: str) -> Found | None:
    """The only table in a folder: by its name's ending, or else a text file that is one."""
    there = sorted(name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name)))
    names = [name for name in there if name.rpartition(".")[2].lower() in EXTENSIONS]
    # What img2dataset says of the images that it downloaded names no files.
    names = [name for name in names if f"{name.rpartition('.')[0]}_stats.json" not in there]
    if not names:
        texts = [os.path.join(folder, name) for name in there if name.endswith(".txt")][:MOST_TEXTS]
        found = (table(path) for path in texts if _can_be_opened(path))
        return next((one for one in found if one is not None), None)
    if len(names) > 1:
        raise DataError(f"--from {folder}: it has {len(names)} tables ({', '.join(names[:5])}): name one of them")
    return table(os.path.join(folder, names[0]))


def _can_be_opened(path: str) -> bool:
    try:
        return _opened(path, None)[0] is not None
    except DataError:
        return False


def _opened(path: str, format: str | None) -> tuple[Table | None, dict[str, Any]]:
    """The table, and the settings that its name does not tell."""
    if format == "jsonl":
        return JsonLines(path), {}
    if format == "parquet":
        return Parquet(path), {}
    usual = SeparatedValues(path, None)
    if format == "csv" and not usual.columns:
        raise DataError(f"{path}: its header is empty: a table begins with the names of its columns")
    best, most = usual.separator if format else ",", 1 if format is None else len(usual.columns)
    for separator in SEPARATORS:
        try:
            count = len(SeparatedValues(path, separator).columns)
        except DataError:
            continue
        if count > most:
            best, most = separator, count
    if most < 2:
        if format is None:
            return None, {}
        raise DataError(f"{path}: its header has one column, {usual.columns[0]!r}: images and captions are two at least")
    settings = {} if format else {"format": "csv"}
    if best != usual.separator:
        settings["separator"] = best
    return SeparatedValues(path, best), settings


def _first_rows(table: Table) -> list[dict[str, Any]]:
    columns = [name for name in table.columns if table.columns.count(name) == 1 and not table.holds_images(name)]
    rows = list(islice(table.rows(columns, 0, None), ROWS))
    found = [dict(zip(columns, row.values, strict=True)) for row in rows if row.values is not None]
    if not found:
        why = f"none of its first rows can be read ({rows[0].fault})" if rows else "it has no rows"
        raise DataError(f"{table.url}: {why}: its columns are {', '.join(map(repr, table.columns))}")
    return found


def _image_column(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str | None:
    """The one whose cells end like names of images; of several the one with a usual name."""
    found = [name for name in columns if _mostly(_is_image(row[name]) for row in rows)]
    return next((name for name in PATH_COLUMNS if name in found), found[0] if found else None)


def _caption_columns(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The one with a usual name; else all whose cells are mostly texts of several words."""
    usual = [name for name in CAPTION_COLUMNS if name in columns]
    return usual[:1] or [name for name in columns if _mostly(_has_words(row[name]) for row in rows)]


def _split_column(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str | None:
    named = [name for usual in SPLIT_COLUMNS for name in columns if name.lower() == usual]
    return next((name for name in named if _mostly(str(row[name]).strip().lower() in SPLIT_OF for row in rows)), None)


def _folder_setting(table: Table, image: str, names: list[str]) -> dict[str, str]:
    """Where the images lie, if not beside the table. Raises DataError where they are not found."""
    if "://" in table.url:
        return {}
    every = (row.values[0] for row in table.rows([image], 0, None) if row.values is not None)
    folder = folder_of_images(table.url, names, lambda: (cell for cell in every if isinstance(cell, str)))
    beside = os.path.normpath(folder) == os.path.normpath(os.path.dirname(table.url) or ".")
    return {} if beside else {"image_folder": folder}


def _is_image(cell: Any) -> bool:
    """A name that ends like an image's, and is more than the ending."""
    stem, dot, ending = cell.rpartition(".") if isinstance(cell, str) else ("", "", "")
    return bool(stem and dot) and ending.lower() in IMAGE_EXTENSIONS


def _has_words(cell: Any) -> bool:
    texts = cell if isinstance(cell, list) and cell else [cell]
    return all(isinstance(text, str) and " " in text.strip() and not _is_image(text) for text in texts)


def _mostly(seen: Iterable[bool]) -> bool:
    found = list(seen)
    return bool(found) and sum(found) > len(found) / 2
