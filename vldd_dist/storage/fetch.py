"""Bringing a distilled set to where it is used: in parallel, verified, resumed, and there only when it is whole."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vldd_dist.errors import StoreError
from vldd_dist.storage.distilled import DistilledManifest
from vldd_dist.storage.manifests import from_json, to_json
from vldd_dist.storage.objects import DamagedObject, ObjectInfo
from vldd_dist.storage.store import Store

PARALLEL_OBJECTS = 8

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]


def read_manifest(store: Store) -> DistilledManifest:
    """The manifest of the set a store's URL points at. Raises StoreError when there is none, or it is not one."""
    manifest = from_json(DistilledManifest, store.read("manifest.json"), store.url_of("manifest.json"))
    for name, info in manifest.objects.items():
        # A set is one folder: an object lies under its own name, and nowhere else.
        if info.key != name:
            raise StoreError(f"{store.url_of('manifest.json')}: object {name!r} points at {info.key!r}: refused")
        store.url_of(name)
    return manifest


def verify(url: str, progress: Progress = lambda done, total: None) -> DistilledManifest:
    """Check every object of a set by size and sha256. Raises StoreError naming the first that is damaged."""
    store = Store(url)
    manifest = read_manifest(store)
    _each_object(manifest, lambda info: info.verify(store.read(info.key), store.url_of(info.key)), progress)
    return manifest


def fetch(url: str, folder: Path, progress: Progress = lambda done, total: None) -> DistilledManifest:
    """Copy a set into a new folder. An interrupted fetch leaves `FOLDER.partial`, from which the same call goes on.

    Raises:
        StoreError: the set is damaged, or the folder holds something else.
    """
    store = Store(url)
    manifest = read_manifest(store)
    if folder.exists():
        if (folder / "manifest.json").is_file() and (folder / "manifest.json").read_bytes() == to_json(manifest):
            return verify(str(folder), progress)
        raise StoreError(f"{folder}: exists already and is not this set: name another folder or remove it")
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    local = Store(str(partial))

    def bring(info: ObjectInfo) -> None:
        if not _is_there(local, info):
            local.write(info.key, info.verify(store.read(info.key), store.url_of(info.key)))

    _each_object(manifest, bring, progress)
    for path in partial.rglob("*"):
        # Left by an interrupted fetch of an older version of the set.
        if path.is_file() and path.relative_to(partial).as_posix() not in manifest.objects:
            path.unlink()
    local.write("manifest.json", to_json(manifest))
    os.rename(partial, folder)
    return manifest


def _is_there(store: Store, info: ObjectInfo) -> bool:
    if not store.exists(info.key):
        return False
    try:
        info.verify(store.read(info.key), info.key)
    except DamagedObject:
        return False
    return True


def _each_object(manifest: DistilledManifest, work: Callable[[ObjectInfo], object], progress: Progress) -> None:
    infos = sorted(manifest.objects.values(), key=lambda info: -info.size)
    total, done = sum(info.size for info in infos), 0
    progress(0, total)
    with ThreadPoolExecutor(PARALLEL_OBJECTS) as pool:
        for info, _ in zip(infos, pool.map(work, infos), strict=True):
            done += info.size
            progress(done, total)


def published_sets(store: Store) -> dict[str, DistilledManifest]:
    """Folder under `distilled/` -> manifest, of every set an experiment's store has published."""
    folders = [key.removesuffix("/manifest.json") for key in store.list("distilled") if key.endswith("/manifest.json")]
    return {folder: read_manifest(Store(store.url_of(folder))) for folder in folders}
