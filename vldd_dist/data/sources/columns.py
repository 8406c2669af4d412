"""What columns of tables and data sets are called, and their cells as captions."""

from collections.abc import Callable, Sequence
from typing import Any

from vldd_dist.control_characters import one_line
from vldd_dist.data.files.shards import checked_captions, is_text
from vldd_dist.errors import DataError

# By OpenCLIP, img2dataset and others; looked for where the description names none.
PATH_COLUMNS = ("filepath", "file_name", "filename", "image_path", "image", "path")
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
CAPTION_COLUMNS = ("title", "caption", "captions", "text", "txt", "sentences")
# Columns that an error names.
NAMED = 20


def find_column(
    columns: list[str],
    setting: str,
    name: str | None,
    usual: Sequence[str],
    where: str,
    advice: Callable[[], str] = str,
) -> str:
    """The column that is named, or else the only one with a usual name.

    Args:
        setting: the key that names it.
        where: the file or data set.
        advice: called for what else could be wrong, which ends the sentence.

    Raises:
        DataError: there is none, or more than one.
    """
    found = [name] if name is not None else [each for each in usual if each in columns]
    if len(found) == 1 and columns.count(found[0]) == 1:
        return found[0]
    if len(found) == 1 and found[0] in columns:
        raise DataError(f"{where}: {columns.count(found[0])} columns are called {found[0]!r}: rename all but one")
    if name is not None:
        why = f"there is no column {name!r}"
    elif found:
        why = f"the columns {' and '.join(map(repr, found))} could each be meant: set data.source.{setting}"
    else:
        why = f"no column is called {', '.join(usual)}: set data.source.{setting}"
    shown = ", ".join(one_line(repr(each)) for each in columns[:NAMED])
    more = f" and {len(columns) - NAMED} more" if len(columns) > NAMED else ""
    raise DataError(f"{where}: {why}; its columns are {shown}{more}{advice()}")


def text_of(column: str, cell: Any) -> str:
    """A cell that must be a text. Raises DataError, without the place."""
    if cell is None:
        raise DataError(f"{column}: missing: give a text, or remove the row")
    if not isinstance(cell, str):
        raise DataError(f"{column}: expected a text, not {type(cell).__name__}")
    if not is_text(cell):
        raise DataError(f"{column}: {one_line(cell)!r} is no UTF-8: save the table as UTF-8")
    return cell


def captions_in(columns: list[str], cells: Sequence[Any]) -> list[str]:
    """The captions of cells that are texts or lists of texts. Raises DataError, without the place."""
    captions: list[str] = []
    for column, cell in zip(columns, cells, strict=True):
        captions += [text_of(column, each) for each in (cell if isinstance(cell, list) else [cell])]
    return checked_captions(captions, ", ".join(columns))
