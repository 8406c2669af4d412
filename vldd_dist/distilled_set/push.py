"""Copying a distilled set to where others find it: a folder, object storage, or a data set of the Hugging Face hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from vldd_dist.artifacts.manifests import from_json
from vldd_dist.distilled_set.fetch import Progress, fetch, verify
from vldd_dist.distilled_set.hub import HUB, push_to_hub
from vldd_dist.distilled_set.manifest import MANIFEST, DistilledManifest
from vldd_dist.errors import StoreError
from vldd_dist.store.store import MissingObject, Store


def push(
    url: str,
    target: str,
    *,
    replace: bool = False,
    public: bool = False,
    progress: Progress = lambda done, total: None,
) -> DistilledManifest:
    """Verify a set, copy it, and verify the copy. A reader of the target never takes a part for the whole: to a folder or
    object storage the manifest is written last, to the hub all files are one commit. The same push again changes nothing.

    Args:
        target: a folder URL, or hf://datasets/USER/NAME.
        replace: whether another set, or other files in the place of this set's, may be overwritten.
        public: of a data set that is made on the hub: whether everybody sees it.
        progress: of the bytes that are read from the set.

    Raises:
        StoreError: the set is damaged, the target holds something else, or cannot be written.
    """
    with _local_copy(url, progress) as (folder, manifest):
        files = {name: folder / name for name in [*manifest.objects, MANIFEST]}
        if target.startswith(HUB):
            push_to_hub(files, manifest, target, replace=replace, public=public)
        else:
            _push_to_store(files, manifest, Store(target), replace)
    return manifest


@contextlib.contextmanager
def _local_copy(url: str, progress: Progress) -> Iterator[tuple[Path, DistilledManifest]]:
    """The set's folder on this machine, verified."""
    store = Store(url)
    if store.scheme == "file":
        yield Path(store.root), verify(url, progress)
        return
    with TemporaryDirectory(prefix="vldd-push-") as temporary:
        folder = Path(temporary) / "set"
        yield folder, fetch(url, folder, progress)


def _push_to_store(files: dict[str, Path], manifest: DistilledManifest, place: Store, replace: bool) -> None:
    place.require_writable()
    data = files[MANIFEST].read_bytes()
    there = _bytes_at(place, MANIFEST)
    if there is None or there != data:
        old: set[str] = set()
        if there is not None:
            if not replace:
                raise StoreError(f"{place.url}: another distilled set is there: name another place, or give --replace")
            with contextlib.suppress(StoreError):
                # Of a damaged manifest nothing can be removed.
                old = set(from_json(DistilledManifest, there, place.url).objects)
        elif not replace:
            _refuse_other_files(files, manifest, place)
        # First, so that nobody reads a mixture of two sets.
        place.delete([MANIFEST])
        for name in manifest.objects:
            place.write(name, files[name].read_bytes())
        if not place.create(MANIFEST, data):
            raise StoreError(f"{place.url}: another distilled set was written there at the same time: push to another place")
        place.delete(sorted(old - set(manifest.objects)))
    verify(place.url)


def _refuse_other_files(files: dict[str, Path], manifest: DistilledManifest, place: Store) -> None:
    """Files that an interrupted push of the same set left are the same; a README of a project is not."""
    for name, info in manifest.objects.items():
        there = _bytes_at(place, name) if place.exists(name) else None
        if there is not None and (len(there) != info.size or there != files[name].read_bytes()):
            raise StoreError(f"{place.url_of(name)}: another file is there: name a place without files, or give --replace")


def _bytes_at(place: Store, name: str) -> bytes | None:
    try:
        return place.read(name)
    except MissingObject:
        return None
