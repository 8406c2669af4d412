"""Writing a distilled set: its pairs, its presentation, and the manifest over both."""

import json
from collections.abc import Callable, Collection, Iterable

from vldd_dist.artifacts.manifests import to_json
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import CAPTIONS, IMAGE_WEIGHTS, MANIFEST, SHARED, DistilledManifest
from vldd_dist.distilled_set.publishing.presentation import present
from vldd_dist.errors import StoreError
from vldd_dist.store.location import Location
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import MissingObject, Store


def files_of(distilled: DistilledSet) -> dict[str, bytes]:
    """The files of the set's folder: name -> content, the manifest last."""
    captions = "".join(json.dumps(caption.model_dump(), ensure_ascii=False) + "\n" for caption in distilled.captions)
    files = {**distilled.encoded_pairs(), CAPTIONS: captions.encode()}
    if distilled.shared:
        files[SHARED] = tensors.encode(distilled.shared)
    if distilled.image_weights is not None:
        files[IMAGE_WEIGHTS] = tensors.encode(distilled.image_weights)
    files |= present(distilled, files)
    manifest = DistilledManifest(
        pairs=len(distilled),
        learned=distilled.learned,
        recipe=distilled.recipe,
        facts={**distilled.facts, "sizes": distilled.sizes},
        objects={name: ObjectInfo.of(name, content) for name, content in files.items()},
    )
    return {**files, MANIFEST: to_json(manifest)}


def save(distilled: DistilledSet, url: Location) -> None:
    """Write a set to a folder URL, the manifest last. Saving the same set again changes nothing.

    Raises:
        StoreError: the folder already has another set, or another file with the name of one of the set's.
    """
    store = Store(url)
    store.require_writable()
    files = files_of(distilled)
    manifest = files.pop(MANIFEST)
    if store.exists(MANIFEST):
        if store.read(MANIFEST) != manifest:
            raise StoreError(f"{store.url}: another distilled set is there: choose another folder or remove it")
        return
    if other := other_file(store, files, files.__getitem__):
        raise StoreError(f"{store.url_of(other)}: another file is there: choose a folder without files")
    if not write_folder(store, files.items(), manifest, replace=False):
        raise StoreError(f"{store.url}: another distilled set was written there at the same time: choose another folder")


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
