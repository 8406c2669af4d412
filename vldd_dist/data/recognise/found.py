"""What was found at a path, and where the images lie that it names."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vldd_dist.control_characters import one_line
from vldd_dist.errors import DataError

# Names of images that are looked for.
LOOKED_FOR = 10


@dataclass(frozen=True)
class Found:
    """Attributes:
    source: name and settings of the source, as a description has them.
    what: says what was found.
    """

    source: dict[str, Any]
    what: str


def folder_of_images(path: str, names: Sequence[str], all_names: Callable[[], Iterable[str]]) -> str:
    """The folder that the images' names in a local file are relative to: the file's own, a folder in it or in that, or one
    beside it. Of absolute names what they have in common.

    Args:
        names: the first ones.
        all_names: called for absolute names: the first ones may have more in common than all have.

    Raises:
        DataError: most of the first images are in none of them.
    """
    some, near = names[:LOOKED_FOR], os.path.dirname(path) or "."
    if not some:
        raise DataError(f"{path}: it names no image")
    if any(name.startswith(("http://", "https://")) for name in some):
        raise DataError(f"{path}: its images are on the web ({one_line(some[0])}): download them first, as img2dataset does")
    if all(map(os.path.isabs, some)):
        if _most_are_in("/", some):
            return _common_folder(all_names())
        raise DataError(f"{path}: it names images such as {some[0]!r}, which are not there")
    for folder in _folders(near):
        if _most_are_in(folder, some):
            return folder
    raise DataError(f"{path}: it names images such as {some[0]!r}, which are not found in {near} or in a folder near it")


def _most_are_in(folder: str, names: Sequence[str]) -> bool:
    """A few may be missing."""
    return sum(os.path.isfile(os.path.join(folder, name)) for name in names) > len(names) / 2


def _common_folder(names: Iterable[str]) -> str:
    common = ""
    for name in filter(os.path.isabs, names):
        folder = os.path.dirname(name)
        if folder != common and not (common and folder.startswith(common.rstrip("/") + "/")):
            common = os.path.commonpath([common, folder]) if common else folder
    return common


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
