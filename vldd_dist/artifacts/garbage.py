"""Garbage collection: removes objects that no manifest and no checkpoint lists, and unfinished multipart uploads, if they are
older, by the store's clock, than any attempt that may still be running. On request it also removes committed units that are no
longer needed.

It works only in a store with this package's mark, and removes only keys of the forms that this package writes.
"""

import contextlib
import re
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vldd_dist.artifacts.checkpoints import keys_of_checkpoint
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
FOLDERS = ("units", "blobs", "distilled")

_MANIFEST = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/manifest\.json")
_CHECKPOINT = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/checkpoints/\d{8}-(?P<attempt>\w+)\.json")
_OF_ATTEMPT = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/(?P<attempt>[0-9a-f]{8})/.+")
_PUBLISHED = re.compile(r"(?P<folder>distilled/[^/]+-\d+pairs-seed\d+-[0-9a-f]{8})/.+")
# Objects that belong to no attempt: blobs, and temporary files.
_SINGLE = re.compile(r"blobs/(?P<start>[0-9a-f]{2})/(?P=start)[0-9a-f]{62}|(units|blobs)/(.+/)?\.tmp-[0-9a-f]{32}")


@dataclass(frozen=True)
class Keep:
    """The units that are needed; all others are garbage.

    Attributes:
        units: as (kind, id).
        published: whether publications and the sets that they published are kept even if they are not needed.
    """

    units: AbstractSet[tuple[str, str]]
    published: bool = True

    def frees(self, unit: str) -> bool:
        """Whether the unit with this key prefix is not needed."""
        _, kind, unit_id = unit.split("/")
        return (kind, unit_id) not in self.units and not (self.published and kind == PUBLICATION)

    def frees_set(self, folder: str) -> bool:
        """Whether the published set in this folder belongs to a publication that is not needed."""
        return not self.published and folder[-8:] not in {unit_id[:8] for kind, unit_id in self.units if kind == PUBLICATION}


@dataclass(frozen=True)
class Garbage:
    """What garbage collection removes.

    Attributes:
        keys: keys of objects to remove.
        size: their total size in bytes.
        uploads: keys of multipart uploads to abort.
        units: committed units among the objects, as KIND/ID, and published sets, as their folders.
    """

    keys: list[str]
    size: int
    uploads: list[str]
    units: list[str] = field(default_factory=list)


def find_garbage(store: Store, min_age: timedelta, keep: Keep | None = None) -> Garbage:
    """Objects under `units/`, `blobs/` and `distilled/` that nothing lists and that are older than `min_age`. A folder under
    `distilled/` counts as listed if it has a manifest. Checkpoints of a committed unit no longer count.

    The age protects running attempts, which write objects before the manifest or checkpoint record that lists them. An attempt
    is as old as its newest object, and a unit that is not needed is as old as the newest object of all its attempts.

    Args:
        keep: the committed units that are needed; None: all.

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
    lists = [key for key in keys if key.endswith("/manifest.json") or _CHECKPOINT.fullmatch(key)]
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
    if any(key.startswith("blobs/") for key in listing) and not any(key.startswith("units/") for key in listing):
        raise StoreError(
            f"{store.url_of('units')}: is empty, but there are blobs of units: mount its disk; if you have removed the units, "
            f"remove {store.url_of('blobs')} too"
        )
    freed = _freed(listing, before, keep)
    needed = _needed(store, [key for key in listing if _owner(key) not in freed])
    attempts: dict[str, list[str]] = {}
    for key in listing:
        if key not in needed and (attempt := _attempt_of(key, freed)):
            attempts.setdefault(attempt, []).append(key)
    keys: list[str] = []
    for of_attempt in attempts.values():
        if all(listing[key].modified <= before for key in of_attempt):
            keys += of_attempt
    uploads = [key for folder in FOLDERS for key in store.abort_uploads(folder, before, abort=False)]
    units = [owner.removeprefix("units/") for owner in sorted(freed) if f"{owner}/manifest.json" in listing]
    return Garbage(keys, sum(listing[key].size for key in keys), uploads, units)


def _freed(listing: dict[str, Listed], before: datetime, keep: Keep | None) -> set[str]:
    """Prefixes of the units and sets that are not needed and have only old objects."""
    if keep is None:
        return set()
    owners = {key: owner for key in listing if (owner := _owner(key))}
    young = {owner for key, owner in owners.items() if listing[key].modified > before}
    frees = {owner: keep.frees(owner) if owner.startswith("units/") else keep.frees_set(owner) for owner in owners.values()}
    return {owner for owner, is_free in frees.items() if is_free} - young


def _owner(key: str) -> str:
    """The prefix of the unit or published set that a key belongs to; empty if it belongs to none."""
    for form in (_MANIFEST, _CHECKPOINT, _OF_ATTEMPT):
        if match := form.fullmatch(key):
            return match["unit"]
    match = _PUBLISHED.fullmatch(key)
    return match["folder"] if match else ""


def _needed(store: Store, keys: list[str]) -> set[str]:
    """Keys of valid manifests and checkpoint records, of the objects that they list, and of complete published sets."""
    manifests = {match["unit"]: key for key in keys if (match := _MANIFEST.fullmatch(key))}
    # A slower attempt may have written a checkpoint after the commit; no attempt resumes from it.
    records = [key for key in keys if (match := _CHECKPOINT.fullmatch(key)) and match["unit"] not in manifests]
    published = {key: match["folder"] for key in keys if (match := _PUBLISHED.fullmatch(key))}
    complete = {key for key, folder in published.items() if f"{folder}/manifest.json" in published and "/.tmp-" not in key}
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        of_manifests = pool.map(lambda key: _listed_in_manifest(store, key), manifests.values())
        of_records = pool.map(lambda key: keys_of_checkpoint(store, key), records)
        return complete.union(manifests.values(), records, *of_manifests, *of_records)


def _listed_in_manifest(store: Store, key: str) -> list[str]:
    manifest = from_json(UnitManifest, store.read(key), store.url_of(key))
    return [info.key for info in manifest.objects.values()]


def _attempt_of(key: str, freed: AbstractSet[str] = frozenset()) -> str:
    """A name that is shared by objects that must be removed together: those of a freed unit or set, of an attempt at a unit,
    of a published set, or a single object. Empty for a key that this package does not write."""
    if (owner := _owner(key)) in freed:
        return owner
    if match := _OF_ATTEMPT.fullmatch(key) or _CHECKPOINT.fullmatch(key):
        return f"{match['unit']}/{match['attempt']}"
    if match := _PUBLISHED.fullmatch(key):
        return match["folder"]
    return key if _SINGLE.fullmatch(key) else ""
