"""Finding the columns of images and captions in tables and data sets, and reading captions from cells."""

import ast
import json
from collections.abc import Callable, Sequence
from typing import Any

from vldd_dist.control_characters import is_text, one_line
from vldd_dist.data.files.captions import NoCaption, checked_captions
from vldd_dist.errors import DataError

# Names that OpenCLIP, img2dataset and others use; they are tried if the description names no column.
PATH_COLUMNS = ("filepath", "file_name", "filename", "image_path", "image", "path")
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
CAPTION_COLUMNS = ("title", "caption", "captions", "text", "txt", "sentences")
LIST_AS_TEXT = "holds lists as text: save the table as JSONL or parquet with real lists"
# Largest number of columns that an error lists.
LISTED = 20


def find_column(
    columns: list[str],
    setting: str,
    name: str | None,
    usual: Sequence[str],
    where: str,
    advice: Callable[[], str] = str,
) -> str:
    """The column with the given name; without a name, the only column with a usual name.

    Args:
        setting: the key of data.source that names the column.
        name: value of this key; None: not set.
        usual: names to try if the key is not set.
        where: the file or data set, for errors.
        advice: returns the end of the error: what else could be wrong with the table.

    Raises:
        DataError: there is no such column, or more than one.
    """
    candidates = [name] if name is not None else [each for each in usual if each in columns]
    if len(candidates) == 1 and columns.count(candidates[0]) == 1:
        return candidates[0]
    if len(candidates) == 1 and candidates[0] in columns:
        raise DataError(f"{where}: {columns.count(candidates[0])} columns are called {candidates[0]!r}: rename all but one")
    if name is not None:
        reason = f"there is no column {name!r}"
    elif candidates:
        reason = f"the columns {' and '.join(map(repr, candidates))} could each be meant: set data.source.{setting}"
    else:
        reason = f"no column is called {', '.join(usual)}: set data.source.{setting}"
    listed = ", ".join(one_line(repr(each)) for each in columns[:LISTED])
    more = f" and {len(columns) - LISTED} more" if len(columns) > LISTED else ""
    raise DataError(f"{where}: {reason}; its columns are {listed}{more}{advice()}")


def text_of(column: str, cell: Any) -> str:
    """The text in a cell. Raises DataError if it is not a text; the caller adds the location."""
    if cell is None:
        raise DataError(f"{column}: missing: add a text, or remove the row")
    if not isinstance(cell, str):
        raise DataError(f"{column}: expected a text, not {type(cell).__name__}")
    if not is_text(cell):
        raise DataError(f"{column}: {one_line(cell)!r} is not UTF-8: save the table as UTF-8")
    return cell


def is_list_as_text(cell: Any) -> bool:
    """Whether a cell is a text that JSON, Python or pandas writes for a list of texts."""
    if not isinstance(cell, str) or not (cell.strip().startswith("[") and cell.strip().endswith("]")):
        return False
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return isinstance(found, list) and all(isinstance(each, str) for each in found)
    return False


def captions_in(columns: list[str], cells: Sequence[Any]) -> list[str]:
    """The captions in cells that are texts or lists of texts. Raises DataError (NoCaption without any), also for a list that is
    written as one text; the caller adds the location."""
    # A table whose images have different numbers of captions has nulls in some columns.
    given = [(column, cell) for column, cell in zip(columns, cells, strict=True) if cell is not None]
    if not given:
        raise NoCaption(f"{', '.join(columns)}: missing: add a text, or remove the row")
    captions: list[str] = []
    for column, cell in given:
        if is_list_as_text(cell):
            raise DataError(f"{column}: {LIST_AS_TEXT}")
        captions += [text_of(column, each) for each in (cell if isinstance(cell, list) else [cell])]
    return checked_captions(captions, ", ".join(columns))
