"""The files of a set's folder, as bytes: writing them so that nobody reads an incomplete set."""

from collections.abc import Callable, Collection, Iterable

from vldd_dist.distilled_set.manifest import MANIFEST
from vldd_dist.store.store import MissingObject, Store


def write_folder(
    target: Store, files: Iterable[tuple[str, bytes]], manifest: bytes, *, replace: bool, remove: Collection[str] = ()
) -> bool:
    """Write the folder of a set, the manifest last, so that nobody reads an incomplete set.

    Args:
        target: the folder.
        files: (name, content) of each file but the manifest.
        replace: whether the manifest of another set is removed first, so that nobody reads a mixture of two sets.
        remove: names of files that only the set to be replaced has. They are removed first, while the old manifest still names
            them, so that a write that is repeated after an interruption knows them.

    Returns:
        Whether the manifest is there. If not, another set was written there at the same time, or is not to be replaced.
    """
    target.delete(sorted(remove))
    if replace and read_if_present(target, MANIFEST) not in (None, manifest):
        target.delete([MANIFEST])
    for name, content in files:
        target.write(name, content)
    return target.create(MANIFEST, manifest) or target.read(MANIFEST) == manifest


def other_file(target: Store, names: Iterable[str], content_of: Callable[[str], bytes]) -> str | None:
    """The first name of which the target has a file with other content than the set, for example the README of a project. Files
    that an interrupted write of the same set left have the same content."""
    for name in names:
        existing = read_if_present(target, name)
        if existing is not None and existing != content_of(name):
            return name
    return None


def read_if_present(store: Store, name: str) -> bytes | None:
    """An object, or None if there is none."""
    try:
        return store.read(name)
    except MissingObject:
        return None
