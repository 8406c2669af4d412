"""Recognising tables, and which of their columns are meant."""

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from vldd_dist.data.recognise.found import Found, folder_of
from vldd_dist.data.shards import IMAGE_EXTENSIONS
from vldd_dist.data.sources.base import SPLIT_OF
from vldd_dist.data.sources.columns import CAPTION_COLUMNS, PATH_COLUMNS
from vldd_dist.data.sources.table import EXTENSIONS
from vldd_dist.data.sources.tables.base import Table
from vldd_dist.data.sources.tables.lines import SEPARATORS, JsonLines, SeparatedValues
from vldd_dist.data.sources.tables.parquet import Parquet
from vldd_dist.errors import DataError

# Rows that are looked at, and files that are looked for.
ROWS, FILES = 50, 3
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
    source |= _folder_setting(path, [row[image] for row in rows[:FILES] if isinstance(row[image], str)])
    split = _split_column(columns, rows)
    if split is not None:
        source["split_column"] = split
    return Found(source, f"{path} is a table: images in the column {image!r}, captions in {', '.join(map(repr, captions))}")


def table_in(folder: str) -> Found | None:
    """The only table in a folder."""
    names = [name for name in sorted(os.listdir(folder)) if EXTENSIONS.get(name.rpartition(".")[2].lower())]
    if not names:
        return None
    if len(names) > 1:
        raise DataError(f"--from {folder}: it has {len(names)} tables ({', '.join(names[:5])}): name one of them")
    return table(os.path.join(folder, names[0]))


def _opened(path: str, format: str | None) -> tuple[Table | None, dict[str, Any]]:
    """The table, and the settings that its name does not tell."""
    if format == "jsonl":
        return JsonLines(path), {}
    if format == "parquet":
        return Parquet(path), {}
    usual = SeparatedValues(path, None)
    best, most = usual.separator if format else ",", 1 if format is None else len(usual.columns)
    for separator in SEPARATORS:
        try:
            count = len(SeparatedValues(path, separator).columns)
        except DataError:
            continue
        if count > most:
            best, most = separator, count
    if most < 2:
        return None, {}
    settings = {} if format else {"format": "csv"}
    if best != usual.separator:
        settings["separator"] = best
    return SeparatedValues(path, best), settings


def _first_rows(table: Table) -> list[dict[str, Any]]:
    columns = [name for name in table.columns if table.columns.count(name) == 1 and not table.holds_images(name)]
    rows = islice(table.rows(columns, 0, None), ROWS)
    return [dict(zip(columns, row.values, strict=True)) for row in rows if row.values is not None]


def _image_column(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str | None:
    """The one whose cells end like names of images; of several the one with a usual name."""
    found = [name for name in columns if _mostly(_is_image(row[name]) for row in rows)]
    return next((name for name in PATH_COLUMNS if name in found), found[0] if found else None)


def _caption_columns(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The one with a usual name; else all whose cells are mostly texts of several words."""
    usual = [name for name in CAPTION_COLUMNS if name in columns]
    return usual[:1] or [name for name in columns if _mostly(_has_words(row[name]) for row in rows)]


def _split_column(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str | None:
    known = [name for name in SPLIT_COLUMNS if name in columns and _mostly(str(row[name]).lower() in SPLIT_OF for row in rows)]
    return known[0] if known else None


def _folder_setting(path: str, names: list[str]) -> dict[str, str]:
    """Where the images lie, if not beside the table. Raises DataError where they are not found."""
    near = os.path.dirname(path) or "."
    if "://" in path or not names:
        return {}
    folder = "/" if all(map(os.path.isabs, names)) else folder_of(names, near)
    if folder is None:
        raise DataError(f"{path}: it names images such as {names[0]!r}, which are not found in {near} or in a folder near it")
    if folder == "/":
        common = os.path.commonpath([os.path.dirname(name) for name in names])
        return {"image_folder": common}
    return {} if os.path.normpath(folder) == os.path.normpath(near) else {"image_folder": folder}


def _is_image(cell: Any) -> bool:
    return isinstance(cell, str) and cell.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def _has_words(cell: Any) -> bool:
    return all(isinstance(text, str) and " " in text.strip() for text in (cell if isinstance(cell, list) and cell else [cell]))


def _mostly(seen: Iterable[bool]) -> bool:
    found = list(seen)
    return bool(found) and sum(found) > len(found) / 2
