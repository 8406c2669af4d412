"""Copying a distilled set to where others find it: a folder, object storage, or a data set on the Hugging Face hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from vldd_dist.artifacts.manifests import from_json
from vldd_dist.distilled_set.fetch import fetch
from vldd_dist.distilled_set.hub import HUB, push_to_hub
from vldd_dist.distilled_set.manifest import MANIFEST, DistilledManifest
from vldd_dist.distilled_set.reading import ByteCallback, verify
from vldd_dist.distilled_set.write import read_if_present, write_folder
from vldd_dist.errors import StoreError
from vldd_dist.store.store import Store


def push(
    url: str,
    target: str,
    *,
    replace: bool = False,
    public: bool = False,
    progress: ByteCallback = lambda done, total: None,
) -> DistilledManifest:
    """Verify a set, copy it, and verify the copy. A reader of the target never sees an incomplete set: in a folder or object
    storage the manifest is written last, and on the hub all files are one commit. Repeating a push changes nothing.

    Args:
        target: a folder URL, or hf://datasets/USER/NAME.
        replace: whether another set, or other files with the names of this set's files, may be overwritten.
        public: whether a data set that is created on the hub is public.
        progress: called with the bytes that were read from the set.

    Raises:
        StoreError: the set is damaged, or the target has other content or cannot be written.
    """
    with _local_copy(url, progress) as (folder, manifest):
        files = {name: folder / name for name in [*manifest.objects, MANIFEST]}
        if target.startswith(HUB):
            push_to_hub(files, manifest, target, replace=replace, public=public)
        else:
            _push_to_store(files, manifest, Store(target), replace)
    return manifest


@contextlib.contextmanager
def _local_copy(url: str, progress: ByteCallback) -> Iterator[tuple[Path, DistilledManifest]]:
    """A local folder with the set, and its manifest, both verified. The folder may be temporary."""
    store = Store(url)
    if store.scheme == "file":
        yield Path(store.root), verify(url, progress)
        return
    with TemporaryDirectory(prefix="vldd-push-") as temporary:
        folder = Path(temporary) / "set"
        yield folder, fetch(url, folder, progress)


def _push_to_store(files: dict[str, Path], manifest: DistilledManifest, target: Store, replace: bool) -> None:
    target.require_writable()
    data = files[MANIFEST].read_bytes()
    existing = read_if_present(target, MANIFEST)
    if replace or existing is None or existing != data:
        old_names: set[str] = set()
        if existing is not None:
            if not replace:
                raise StoreError(f"{target.url}: another distilled set is there: name another folder, or give --replace")
            with contextlib.suppress(StoreError):
                # If the old manifest is damaged, the objects of the old set are not known and remain.
                old_names = set(from_json(DistilledManifest, existing, target.url).objects)
        elif not replace:
            _refuse_other_files(files, manifest, target)
        # Read one by one, because a set may be larger than memory.
        objects = ((name, files[name].read_bytes()) for name in manifest.objects)
        if not write_folder(target, objects, data, replace=replace):
            raise StoreError(f"{target.url}: another distilled set was written there at the same time: push to another folder")
        target.delete(sorted(old_names - set(manifest.objects)))
    verify(target.url)


def _refuse_other_files(files: dict[str, Path], manifest: DistilledManifest, target: Store) -> None:
    """Raises StoreError if a file of the set exists with other content, for example the README of a project. Files that an
    interrupted push of the same set left have the same content."""
    for name, info in manifest.objects.items():
        existing = read_if_present(target, name)
        if existing is not None and (len(existing) != info.size or existing != files[name].read_bytes()):
            raise StoreError(f"{target.url_of(name)}: another file is there: name a folder without files, or give --replace")
