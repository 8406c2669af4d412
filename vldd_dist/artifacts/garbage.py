"""Garbage collection: removes objects that no manifest and no checkpoint lists, and unfinished multipart uploads, if they are
older, by the store's clock, than any attempt that may still be running. On request it also removes committed units that are no
longer needed, and the records of ended runs.

It works only in a store with this package's mark, and removes only keys of the forms that this package writes.
"""

import contextlib
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vldd_dist.artifacts.checkpoints import keys_of_checkpoint
from vldd_dist.artifacts.keys import (
    BLOBS,
    MANIFEST,
    PUBLISHED,
    RUNS,
    STATUS,
    UNITS,
    BlobKey,
    CheckpointKey,
    Key,
    ManifestKey,
    ObjectKey,
    PublishedKey,
    RecordKey,
    TemporaryKey,
    is_published_by,
    kind_and_id,
    parse,
)
from vldd_dist.artifacts.manifests import UnitManifest, from_json
from vldd_dist.artifacts.units import is_store
from vldd_dist.errors import StoreError
from vldd_dist.store.backends.listing import Listed
from vldd_dist.store.objects import PARALLEL_READS
from vldd_dist.store.store import MissingObject, Store

# Attempts to read a store in which units are committed at the same time.
READ_ATTEMPTS = 5
# The kind of the units that publish distilled sets.
PUBLICATION = "publication"
FOLDERS = (UNITS, BLOBS, PUBLISHED, RUNS, STATUS)


@dataclass(frozen=True)
class Keep:
    """The units that are needed; all others are garbage.

    Attributes:
        units: as (kind, id).
        published: whether publications and the sets that they published are kept even if they are not needed.
        ended_runs: as NAME/RUN, the runs whose records are garbage.
    """

    units: AbstractSet[tuple[str, str]]
    published: bool = True
    ended_runs: AbstractSet[str] = frozenset()

    def frees(self, owner: str) -> bool:
        """Whether the unit with this key prefix, the published set in this folder, or the run of a record is not needed."""
        folder, _, run = owner.partition("/")
        if folder == RUNS:
            return run in self.ended_runs
        if folder == PUBLISHED:
            publications = [unit_id for kind, unit_id in self.units if kind == PUBLICATION]
            return not self.published and not any(is_published_by(owner, unit_id) for unit_id in publications)
        kind, unit_id = kind_and_id(owner)
        return (kind, unit_id) not in self.units and not (self.published and kind == PUBLICATION)


@dataclass(frozen=True)
class Garbage:
    """What garbage collection removes.

    Attributes:
        keys: keys of objects to remove.
        size: their total size in bytes.
        uploads: keys of multipart uploads to abort.
        units: committed units among the objects, as KIND/ID, and published sets, as their folders.
        runs: ended runs, as NAME/RUN, whose records are among the objects.
    """

    keys: list[str]
    size: int
    uploads: list[str]
    units: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


def find_garbage(store: Store, min_age: timedelta, keep: Keep | None = None) -> Garbage:
    """Objects under `units/`, `blobs/` and `distilled/` that nothing lists and that are older than `min_age`. A folder under
    `distilled/` counts as listed if it has a manifest. Checkpoints of a committed unit no longer count. Also unfinished writes
    there and under `runs/` and `status/`; with `keep`, also the records of its ended runs.

    The age protects running attempts, which write objects before the manifest or checkpoint record that lists them. An attempt
    is as old as its newest object, and a unit that is not needed is as old as the newest object of all its attempts.

    Args:
        keep: what is needed; None: all.

    Raises:
        StoreError: the store has no mark, a manifest cannot be read, or there are blobs but no units, so that it is not known
            what is garbage.
    """
    store.require_writable()
    if not is_store(store):
        raise StoreError(
            f"{store.url}: no unit of work was ever written here, so this is not a store of vldd and nothing in it is garbage: "
            "name the URL that the experiment was run with"
        )
    before = store.now() - min_age
    for _ in range(READ_ATTEMPTS):
        with contextlib.suppress(MissingObject):
            return _find(store, before, keep)
    raise StoreError(f"{store.url}: units were committed during each of {READ_ATTEMPTS} attempts to read it: try again later")


def remove_garbage(store: Store, garbage: Garbage, min_age: timedelta, keep: Keep | None = None) -> None:
    """Remove the garbage that `find_garbage` found, except what has been listed or written again since."""
    still_garbage = set(find_garbage(store, min_age, keep).keys)
    before = store.now() - min_age

    def remove(key: str) -> None:
        with contextlib.suppress(MissingObject):
            if store.modified(key) <= before:
                store.delete([key])

    keys = [key for key in garbage.keys if key in still_garbage]
    lists = [key for key in keys if _lists_objects(parse(key))]
    others = sorted(set(keys).difference(lists))
    # In parallel, because each object takes two requests. Manifests and checkpoint records are removed first, because none may
    # list objects that no longer exist.
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for part in (lists, others):
            list(pool.map(remove, part))
    for folder in FOLDERS:
        store.abort_uploads(folder, before)


def _find(store: Store, before: datetime, keep: Keep | None) -> Garbage:
    """Raises MissingObject if a manifest or record was removed after the listing: another may list its objects by now."""
    listing: dict[str, Listed] = {}
    for folder in FOLDERS:
        listing |= store.listing(folder, temporary=True)
    if any(key.startswith(f"{BLOBS}/") for key in listing) and not any(key.startswith(f"{UNITS}/") for key in listing):
        raise StoreError(
            f"{store.url_of(UNITS)}: is empty, but there are blobs of units: mount its disk; if you have removed the units, "
            f"remove {store.url_of(BLOBS)} too"
        )
    # Only keys of the forms that this package writes are ever removed.
    known = {key: found for key in listing if (found := parse(key))}
    freed = _freed(known, listing, before, keep)
    needed = _needed(store, [found for found in known.values() if _owner(found) not in freed])
    attempts: dict[str, list[str]] = {}
    for key, found in known.items():
        if key not in needed and (attempt := _attempt_of(found, freed)):
            attempts.setdefault(attempt, []).append(key)
    keys: list[str] = []
    for of_attempt in attempts.values():
        if all(listing[key].modified <= before for key in of_attempt):
            keys += of_attempt
    uploads = [key for folder in FOLDERS for key in store.abort_uploads(folder, before, abort=False)]
    units = [owner.removeprefix(f"{UNITS}/") for owner in sorted(freed) if f"{owner}/{MANIFEST}" in listing]
    runs = [owner.removeprefix(f"{RUNS}/") for owner in sorted(freed) if owner.startswith(f"{RUNS}/")]
    return Garbage(keys, sum(listing[key].size for key in keys), uploads, units, runs)


def _freed(known: dict[str, Key], listing: dict[str, Listed], before: datetime, keep: Keep | None) -> set[str]:
    """The owners (`_owner`) that are not needed and have only old objects."""
    if keep is None:
        return set()
    owners = {key: owner for key, found in known.items() if (owner := _owner(found))}
    young = {owner for key, owner in owners.items() if listing[key].modified > before}
    return {*filter(keep.frees, owners.values())} - young


def _owner(found: Key) -> str:
    """The prefix of the unit, the folder of the published set, or RUNS/NAME/RUN of the run, that a key belongs to; empty if it
    belongs to none."""
    match found:
        case ManifestKey(unit) | CheckpointKey(unit) | ObjectKey(unit):
            return unit
        case PublishedKey(folder):
            return folder
        case RecordKey(_, run):
            return f"{RUNS}/{run}"
        case BlobKey() | TemporaryKey():
            return ""


def _lists_objects(found: Key | None) -> bool:
    """Whether it is the manifest of a unit or a set, or the record of a checkpoint."""
    if isinstance(found, PublishedKey):
        return found.name == MANIFEST
    return isinstance(found, ManifestKey | CheckpointKey)


def _needed(store: Store, known: list[Key]) -> set[str]:
    """Keys of valid manifests and checkpoint records, of the objects that they list, and of complete published sets."""
    manifests = [found for found in known if isinstance(found, ManifestKey)]
    committed = {found.unit for found in manifests}
    # A slower attempt may have written a checkpoint after the commit; no attempt resumes from it.
    records = [found for found in known if isinstance(found, CheckpointKey) and found.unit not in committed]
    published = [found for found in known if isinstance(found, PublishedKey)]
    complete = {found.folder for found in published if found.name == MANIFEST}
    of_sets = {found.key for found in published if found.folder in complete and "/.tmp-" not in found.key}
    marks = [*(found.key for found in manifests), *(found.key for found in records)]
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        of_manifests = pool.map(lambda found: _listed_in_manifest(store, found.key), manifests)
        of_records = pool.map(lambda found: keys_of_checkpoint(store, found.key), records)
        return of_sets.union(marks, *of_manifests, *of_records)


def _listed_in_manifest(store: Store, key: str) -> list[str]:
    manifest = from_json(UnitManifest, store.read(key), store.url_of(key))
    return [info.key for info in manifest.objects.values()]


def _attempt_of(found: Key, freed: AbstractSet[str]) -> str:
    """A name that is shared by objects that must be removed together: those of a freed unit or set, of an attempt at a unit,
    of a published set, or a single object. Empty for a manifest and the record of a run, which no attempt shares."""
    if (owner := _owner(found)) in freed:
        return owner
    match found:
        case ObjectKey() | CheckpointKey():
            return f"{found.unit}/{found.attempt}"
        case PublishedKey(folder):
            return folder
        case BlobKey() | TemporaryKey():
            return found.key
        case ManifestKey() | RecordKey():
            return ""
