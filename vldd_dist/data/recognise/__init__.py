"""Recognising what is stored at a path, and choosing the source that reads it."""

import os
import re
from collections.abc import Callable

from vldd_dist.data.files.image_names import IMAGE_EXTENSIONS
from vldd_dist.data.recognise.annotations import annotation_file
from vldd_dist.data.recognise.folders import annotations_in, hub_data_set, images_with_texts, library_folder, tars, tars_in
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.recognise.tables import table_file, table_in
from vldd_dist.data.sources.table import EXTENSIONS
from vldd_dist.errors import DataError
from vldd_dist.store.user_files.reachability import check_reachable, reason_of

# The order matters: a folder of images with a table beside them is recognised as a table.
OF_FILES: tuple[Callable[[str], Found | None], ...] = (annotation_file, tars, table_file)
OF_FOLDERS: tuple[Callable[[str], Found | None], ...] = (library_folder, tars_in, annotations_in, table_in, images_with_texts)
# A missing path with such an extension is a missing file and not a data set on the hub.
FILE_ENDINGS = {*EXTENSIONS, *IMAGE_EXTENSIONS, "json", "tar", "txt", "zip", "gz"}
KNOWN = "a CSV, TSV, JSONL or parquet table, a Karpathy or COCO JSON, tars, images with .txt files, or a folder of `datasets`"


def recognise(location: str) -> Found:
    """The source that reads a path.

    Args:
        location: a file, a folder, the URL of a table or of tars, or OWNER/NAME of a data set on the hub.

    Raises:
        DataError: nothing exists there, its format is not known, or a folder or file cannot be read.
        StoreError: one cannot be reached at the moment.
    """
    if not os.path.exists(location) and "://" not in location and tars(location) is None:
        if _is_hub_name(location):
            return hub_data_set(location)
        hint = ": patterns are for .tar files" if any(letter in location for letter in "*?[{") else ""
        raise DataError(f"--from {location}: there is no such file or folder{hint}")
    for recogniser in OF_FOLDERS if os.path.isdir(location) else OF_FILES:
        try:
            found = recogniser(location)
        except OSError as error:
            check_reachable(f"--from {location}", error)
            raise DataError(
                f"--from {location}: {error.filename or location} cannot be read ({reason_of(error)}): give this user the "
                "right to read it"
            ) from None
        if found is not None:
            return found
    raise DataError(f"--from {location}: its format is not known: expected {KNOWN}; see docs/own-data.md")


def _is_hub_name(location: str) -> bool:
    """Whether a path that does not exist is OWNER/NAME of a data set and does not look like a missing file."""
    owner, _, name = location.partition("/")
    has_form = re.fullmatch(r"\w[\w.-]*/[\w.-]+", location) is not None
    return has_form and not os.path.isdir(owner) and name.rpartition(".")[2].lower() not in FILE_ENDINGS
