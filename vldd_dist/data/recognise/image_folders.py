"""Finding the folder of the images that a file names."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from vldd_dist.control_characters import one_line
from vldd_dist.errors import DataError

# Number of images for which the folder is searched.
LOOKED_FOR = 10
# Number of folders that an error names.
NAMED = 3


def folder_of_images(path: str, names: Sequence[str], all_names: Callable[[], Iterable[str]], setting: str) -> str:
    """The folder that the names of images in a local file are relative to, which has most of the first images: the file's own
    folder; or the only such folder up to two levels below it; or, if there is none below it, the only one beside it. If the
    names are absolute, it is their deepest common folder.

    Args:
        path: the file; the search begins in its folder.
        names: the names of the first images.
        all_names: returns all names; called only if they are absolute, because all names may have a shorter common path.
        setting: the key of the description that names the folder, for error messages.

    Raises:
        DataError: there is no such folder, or there are several below or beside the file's own.
    """
    first, near = names[:LOOKED_FOR], os.path.dirname(path) or "."
    if not first:
        raise DataError(f"{path}: it names no image: name another file")
    if any(name.startswith(("http://", "https://")) for name in first):
        raise DataError(f"{path}: its images are on the web ({one_line(first[0])}): download them first, as img2dataset does")
    if all(map(os.path.isabs, first)):
        if _most_are_in("/", first):
            return _common_folder(all_names())
        raise DataError(f"{path}: it names images such as {first[0]!r}, which do not exist: correct the paths")
    for folders in ((near,), _folders_below(near), _within(os.path.join(near, os.pardir))):
        # By their real paths, so that several names of one folder, through symbolic links, count as one.
        found: dict[str, str] = {}
        for folder in folders:
            if _most_are_in(folder, first):
                found.setdefault(os.path.realpath(folder), folder)
        if len(found) > 1:
            several = " and in ".join(list(found.values())[:NAMED])
            raise DataError(
                f"{path}: its images are found in {several}: write the description with {setting}, see docs/own-data.md"
            )
        if found:
            return next(iter(found.values()))
    raise DataError(f"{path}: it names images such as {first[0]!r}, which are not found in {near} or in a folder near it")


def _most_are_in(folder: str, names: Sequence[str]) -> bool:
    """Whether more than half of the files exist: a few may be missing."""
    return sum(os.path.isfile(os.path.join(folder, name)) for name in names) > len(names) / 2


def _common_folder(names: Iterable[str]) -> str:
    common = ""
    for name in filter(os.path.isabs, names):
        folder = os.path.dirname(name)
        if folder != common and not (common and folder.startswith(common.rstrip("/") + "/")):
            common = os.path.commonpath([common, folder]) if common else folder
    return common


def _folders_below(near: str) -> Iterator[str]:
    inside = list(_within(near))
    yield from inside
    for folder in inside:
        yield from _within(folder)


def _within(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return
    for name in names:
        yield os.path.normpath(os.path.join(folder, name))
