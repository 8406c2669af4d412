"""JSON files from users, which may be large: a data set's annotations are one JSON object."""

import json
from typing import Any

from vldd_dist.data.files.reading import reading
from vldd_dist.errors import DataError, message_of
from vldd_dist.store.user_files.opening import open_url


def read_json(url: str, where: str) -> Any:
    """The value in a JSON file, local or at a URL.

    Args:
        where: the beginning of errors: the file, and the key of the description that names it.

    Raises:
        DataError: the file cannot be read or is not JSON.
        StoreError: the file cannot be reached at the moment.
    """
    with reading(where), open_url(url) as file:
        data = file.read()
    return parse_json(data, where)


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text. Raises DataError if it is not JSON, or nested too deeply for Python's parser."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON, or nested too deeply ({message_of(error)}): correct the file") from None
