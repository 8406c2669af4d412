"""What was found at a path."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """Attributes:
    source: name and settings of the source, as a description has them.
    what: says what was found.
    """

    source: dict[str, Any]
    what: str


def folder_of(names: Sequence[str], near: str) -> str | None:
    """The folder in which the first of the named files lie: `near` itself, a folder in it or in that, or beside it; none: no
    such folder is there."""
    for folder in _folders(near):
        if names and all(os.path.isfile(os.path.join(folder, name)) for name in names):
            return folder
    return None


def _folders(near: str) -> Iterator[str]:
    yield near
    inside = list(_within(near))
    yield from inside
    for folder in inside:
        yield from _within(folder)
    yield from _within(os.path.join(near, os.pardir))


def _within(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return
    for name in names:
        yield os.path.normpath(os.path.join(folder, name))
