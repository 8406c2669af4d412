"""Garbage collection: objects that no manifest and no checkpoint lists, and unfinished multipart uploads, if they are older, by
the store's clock, than any attempt that may still be running. If asked to, also committed units that nobody goes on with.

Only in a store with this package's mark, and only keys of the forms that this package writes; anything else is left alone.
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
from vldd_dist.store.listing import Listed
from vldd_dist.store.store import MissingObject, Store

LOOKS = 5
# The kind whose units name published sets.
PUBLICATION = "publication"
FOLDERS = ("units", "blobs", "distilled")
PARALLEL_READS = 8

_MANIFEST = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/manifest\.json")
_CHECKPOINT = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/checkpoints/\d{8}-(?P<attempt>\w+)\.json")
_OF_ATTEMPT = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/(?P<attempt>[0-9a-f]{8})/.+")
_PUBLISHED = re.compile(r"(?P<folder>distilled/[^/]+-\d+pairs-seed\d+-[0-9a-f]{8})/.+")
_ALONE = re.compile(r"blobs/(?P<start>[0-9a-f]{2})/(?P=start)[0-9a-f]{62}|(units|blobs)/(.+/)?\.tmp-[0-9a-f]{32}")


@dataclass(frozen=True)
class Keep:
    """Which units are needed: the others are garbage, too.

    Attributes:
        units: as (kind, id).
        published: publications and the sets that they published are kept, needed or not.
    """

    units: AbstractSet[tuple[str, str]]
    published: bool = True

    def frees(self, unit: str) -> bool:
        """Whether a unit with this key prefix is not needed."""
        _, kind, unit_id = unit.split("/")
        return (kind, unit_id) not in self.units and not (self.published and kind == PUBLICATION)

    def frees_set(self, folder: str) -> bool:
        """Whether a published set is of a publication that is not needed."""
        return not self.published and folder[-8:] not in {unit_id[:8] for kind, unit_id in self.units if kind == PUBLICATION}


@dataclass(frozen=True)
class Garbage:
    """Keys of objects to remove, their size in bytes, and keys of multipart uploads to abort; `units`: the committed units
    among them, as KIND/ID, with the published sets, as their folders."""

    keys: list[str]
    size: int
    uploads: list[str]
    units: list[str] = field(default_factory=list)


def find_garbage(store: Store, min_age: timedelta, keep: Keep | None = None) -> Garbage:
    """Objects under `units/`, `blobs/` and `distilled/` that nothing lists and that are older than `min_age`. A folder under
    `distilled/` counts as listed if it has a manifest. Checkpoints of a committed unit list nothing any more.

    The age protects running attempts, which write objects before the manifest or checkpoint record that lists them. The age of
    an attempt is that of its newest object. A unit that is not needed is as old as the newest object of all its attempts.

    Args:
        keep: which committed units are needed; none: all.

    Raises:
        StoreError: the store has no mark, or a manifest cannot be read: then nothing is known to be garbage.
    """
    store.require_writable()
    if not is_store(store):
        raise StoreError(
            f"{store.url}: no unit of work was ever written here, so this is not a store of vldd and nothing in it is garbage: "
            "name the URL that the experiment was run with"
        )
    before = store.now() - min_age
    for _ in range(LOOKS):
        with contextlib.suppress(MissingObject):
            return _look(store, before, keep)
    raise StoreError(f"{store.url}: units were committed during each of {LOOKS} attempts to read it: try again later")


def remove_garbage(store: Store, garbage: Garbage, min_age: timedelta, keep: Keep | None = None) -> None:
    """Remove what `find_garbage` found, except what has been listed or written again since."""
    still = set(find_garbage(store, min_age, keep).keys)
    before = store.now() - min_age
    # Manifests and checkpoint records first: what lists objects that are gone must not be found.
    for key in sorted(garbage.keys, key=lambda key: not (key.endswith("/manifest.json") or _CHECKPOINT.fullmatch(key))):
        with contextlib.suppress(MissingObject):
            if key in still and store.modified(key) <= before:
                store.delete([key])
    for folder in FOLDERS:
        store.abort_uploads(folder, before)


def _look(store: Store, before: datetime, keep: Keep | None) -> Garbage:
    """Raises MissingObject when a manifest or record is gone since the listing: its objects may be listed elsewhere by now."""
    listed: dict[str, Listed] = {}
    for folder in FOLDERS:
        listed |= store.listing(folder, temporary=True)
    freed = _freed(listed, before, keep)
    named = _named(store, [key for key in listed if _owner(key) not in freed])
    attempts: dict[str, list[str]] = {}
    for key in listed:
        if key not in named and (attempt := _attempt_of(key, freed)):
            attempts.setdefault(attempt, []).append(key)
    keys = [key for written in attempts.values() if all(listed[key].modified <= before for key in written) for key in written]
    uploads = [key for folder in FOLDERS for key in store.abort_uploads(folder, before, abort=False)]
    units = [owner.removeprefix("units/") for owner in sorted(freed) if f"{owner}/manifest.json" in listed]
    return Garbage(keys, sum(listed[key].size for key in keys), uploads, units)


def _freed(listed: dict[str, Listed], before: datetime, keep: Keep | None) -> set[str]:
    """Prefixes of the units and sets that are not needed, and of which every object is old."""
    if keep is None:
        return set()
    owners = {key: owner for key in listed if (owner := _owner(key))}
    young = {owner for key, owner in owners.items() if listed[key].modified > before}
    frees = {owner: keep.frees(owner) if owner.startswith("units/") else keep.frees_set(owner) for owner in owners.values()}
    return {owner for owner, is_free in frees.items() if is_free} - young


def _owner(key: str) -> str:
    """The unit's or published set's prefix; empty for a key of neither, or of no form that this package writes."""
    for form in (_MANIFEST, _CHECKPOINT, _OF_ATTEMPT):
        if match := form.fullmatch(key):
            return match["unit"]
    match = _PUBLISHED.fullmatch(key)
    return match["folder"] if match else ""


def _named(store: Store, keys: list[str]) -> set[str]:
    """Keys of valid manifests and checkpoint records, of the objects that they list, and of the published sets."""
    committed = {match["unit"]: key for key in keys if (match := _MANIFEST.fullmatch(key))}
    # A slower attempt may have written a checkpoint after the commit; nobody resumes from it.
    marks = [key for key in keys if (match := _CHECKPOINT.fullmatch(key)) and match["unit"] not in committed]
    published = {key: match["folder"] for key in keys if (match := _PUBLISHED.fullmatch(key))}
    whole = {key for key, folder in published.items() if f"{folder}/manifest.json" in published and "/.tmp-" not in key}
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        of_units = pool.map(lambda key: _named_by_manifest(store, key), committed.values())
        of_marks = pool.map(lambda key: keys_of_checkpoint(store, key), marks)
        return whole.union(committed.values(), marks, *of_units, *of_marks)


def _named_by_manifest(store: Store, key: str) -> list[str]:
    manifest = from_json(UnitManifest, store.read(key), store.url_of(key))
    return [info.key for info in manifest.objects.values()]


def _attempt_of(key: str, freed: AbstractSet[str] = frozenset()) -> str:
    """A name for the objects that were written together: an attempt at a unit, a published set, or a single object. Empty for a
    key that this package does not write. What is freed is one thing."""
    if (owner := _owner(key)) in freed:
        return owner
    if match := _OF_ATTEMPT.fullmatch(key) or _CHECKPOINT.fullmatch(key):
        return f"{match['unit']}/{match['attempt']}"
    if match := _PUBLISHED.fullmatch(key):
        return match["folder"]
    return key if _ALONE.fullmatch(key) else ""
