"""Copying a distilled set to where others find it: a folder, object storage, or a data set on the Hugging Face hub."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from vldd_dist.artifacts.units import is_store
from vldd_dist.distilled_set.manifest import MANIFEST, DistilledManifest
from vldd_dist.distilled_set.publishing.folders import other_file, read_if_present, write_folder
from vldd_dist.distilled_set.reading import ByteCallback, listed_objects, read_manifest, verify
from vldd_dist.distilled_set.transfer.fetch import fetch
from vldd_dist.distilled_set.transfer.hub import HUB, name_on_hub, push_to_hub
from vldd_dist.distilled_set.transfer.partial_folder import local_errors
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.store.location import Location
from vldd_dist.store.store import Store


def push(
    url: Location,
    target: Location,
    *,
    replace: bool = False,
    public: bool = False,
    progress: ByteCallback = lambda done, total: None,
) -> DistilledManifest:
    """Verify a set, copy it, and verify the copy. A reader of the target never sees an incomplete set: in a folder or object
    storage the manifest is written last, and on the hub all files are one commit. Repeating a push changes nothing.

    Args:
        target: a folder URL, or hf://datasets/USER/NAME.
        replace: whether another set, or other files with the names of this set's files, may be overwritten, and whether the set
            may be written into a local folder with other files.
        public: whether a data set that is created on the hub is public.
        progress: called with the bytes that were read from the set.

    Raises:
        ConfigError: `public` for a target that is not on the hub.
        StoreError: the set is damaged, or the target has other content or cannot be written.
    """
    target = os.fspath(target)
    # Before the set is downloaded, which may take long.
    if target.startswith(HUB):
        name_on_hub(target)
    else:
        if public:
            raise ConfigError(f"--public: {target} is not on the hub: set who may read it where it is stored")
        store = Store(target)
        store.require_writable()
        if is_store(store):
            # Beside a store's own folders, the set's manifest would make it look like a set.
            raise StoreError(f"{store.url}: is a store: name a folder of its own, for example {store.url}/sets/NAME")
        _refuse_itself(Store(url), store)
        if not replace:
            _refuse_other_files(store, read_manifest(Store(url)))
    with _local_copy(url, progress) as (folder, manifest):
        files = {name: folder / name for name in [*manifest.objects, MANIFEST]}
        if target.startswith(HUB):
            push_to_hub(files, manifest, target, replace=replace, public=public)
        else:
            _push_to_store(files, manifest, Store(target), replace)
    return manifest


def _refuse_itself(source: Store, target: Store) -> None:
    """Raises StoreError if the target is the set itself: replacing it would begin with removing its only manifest."""
    local = source.scheme == target.scheme == "file" and all(map(os.path.exists, (source.root, target.root)))
    if source.url == target.url or (local and os.path.samefile(source.root, target.root)):
        raise StoreError(f"{target.url}: is the set itself: name another place")


def _refuse_other_files(target: Store, manifest: DistilledManifest) -> None:
    """Raises StoreError if a local folder has no set but files that are not this set's, for example photographs, among which
    its files would lie. Hidden files, such as `.git`, are allowed, and so is what an interrupted push has left."""
    if target.scheme != "file" or not os.path.isdir(target.root) or target.exists(MANIFEST):
        return
    own = {name.partition("/")[0] for name in manifest.objects}
    with local_errors(Path(target.root)):
        others = sorted(name for name in os.listdir(target.root) if not name.startswith(".") and name not in own)
    if others:
        raise StoreError(
            f"{target.url}: other files ({', '.join(others[:3])}) are there: name a new or empty folder, or give --replace"
        )


@contextlib.contextmanager
def _local_copy(url: Location, progress: ByteCallback) -> Iterator[tuple[Path, DistilledManifest]]:
    """A local folder with the set, and its manifest, both verified. The folder may be temporary."""
    store = Store(url)
    if store.scheme == "file":
        yield Path(store.root), verify(url, progress)
        return
    with TemporaryDirectory(prefix="vldd-push-") as temporary:
        folder = Path(temporary) / "set"
        yield folder, fetch(url, folder, progress)


def _push_to_store(files: dict[str, Path], manifest: DistilledManifest, target: Store, replace: bool) -> None:
    data = files[MANIFEST].read_bytes()
    existing = read_if_present(target, MANIFEST)
    if replace or existing is None or existing != data:
        if existing is not None and not replace:
            raise StoreError(f"{target.url}: another distilled set is there: name another folder, or give --replace")
        if not replace and (other := other_file(target, manifest.objects, lambda name: files[name].read_bytes())):
            raise StoreError(f"{target.url_of(other)}: another file is there: name a folder without files, or give --replace")
        # Read one by one, because a set may be larger than memory.
        objects = ((name, files[name].read_bytes()) for name in manifest.objects)
        remove = listed_objects(existing) - manifest.objects.keys()
        if not write_folder(target, objects, data, replace=replace, remove=remove):
            raise StoreError(f"{target.url}: another distilled set was written there at the same time: push to another folder")
    verify(target.url)
