"""What dead attempts left behind: objects that no manifest and no checkpoint names, and uploads in parts that nobody ended,
old enough by the store's clock to be nobody's work.

Only in a store that says it is one, and only keys of the forms that this package writes: what else lies there is not ours.
"""

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from vldd_dist.artifacts.manifests import UnitManifest, from_json
from vldd_dist.artifacts.units import is_store, named_by_checkpoint
from vldd_dist.errors import StoreError
from vldd_dist.store.store import Listed, MissingObject, Store

LOOKS = 5
ROOMS = ("units", "blobs", "distilled")
PARALLEL_READS = 8

_MANIFEST = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/manifest\.json")
_CHECKPOINT = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/checkpoints/\d{8}-(?P<attempt>\w+)\.json")
_OF_ATTEMPT = re.compile(r"(?P<unit>units/[^/]+/[^/]+)/(?P<attempt>[0-9a-f]{8})/.+")
_PUBLISHED = re.compile(r"(?P<folder>distilled/[^/]+-\d+pairs-seed\d+-[0-9a-f]{8})/.+")
_ALONE = re.compile(r"blobs/(?P<start>[0-9a-f]{2})/(?P=start)[0-9a-f]{62}|(units|blobs)/(.+/)?\.tmp-[0-9a-f]{32}")


@dataclass(frozen=True)
class Garbage:
    """Objects to remove, how many bytes that frees, and the keys of unended uploads to abort."""

    keys: list[str]
    size: int
    uploads: list[str]


def find_garbage(store: Store, min_age: timedelta) -> Garbage:
    """Objects under `units/`, `blobs/` and `distilled/` that nothing names and that are older than `min_age`. A folder under
    `distilled/` belongs to its manifest; checkpoints of a unit that is committed name nothing any more.

    The age protects attempts that are running: they write objects before the mark that names them. An attempt is as old as
    the last thing it wrote.

    Raises:
        StoreError: nothing says that this is a store, or a manifest cannot be read; then nothing is known to be garbage.
    """
    store.require_writable()
    if not is_store(store):
        raise StoreError(
            f"{store.url}: no unit of work was ever written here, so this is no store of vldd's and nothing in it is garbage: "
            "name the URL that the experiment was run with"
        )
    before = store.now() - min_age
    for _ in range(LOOKS):
        with contextlib.suppress(MissingObject):
            return _look(store, before)
    raise StoreError(f"{store.url}: units were committed while it was looked through, each time: try again in a while")


def remove_garbage(store: Store, garbage: Garbage, min_age: timedelta) -> None:
    """Remove what `find_garbage` found, unless something names it or it was written again by now."""
    still = set(find_garbage(store, min_age).keys)
    before = store.now() - min_age
    # Marks first: a checkpoint whose objects are half gone must not look whole.
    for key in sorted(garbage.keys, key=lambda key: _CHECKPOINT.fullmatch(key) is None):
        with contextlib.suppress(MissingObject):
            if key in still and store.modified(key) <= before:
                store.delete([key])
    for room in ROOMS:
        store.abort_uploads(room, before)


def _look(store: Store, before: datetime) -> Garbage:
    """Raises MissingObject when a mark that was listed is gone: what it named may have another mark by now."""
    listed: dict[str, Listed] = {}
    for room in ROOMS:
        listed |= store.listing(room, temporary=True)
    named = _named(store, list(listed))
    attempts: dict[str, list[str]] = {}
    for key in listed:
        if key not in named and (attempt := _attempt_of(key)):
            attempts.setdefault(attempt, []).append(key)
    keys = [key for written in attempts.values() if all(listed[key].modified <= before for key in written) for key in written]
    uploads = [key for room in ROOMS for key in store.abort_uploads(room, before, abort=False)]
    return Garbage(keys, sum(listed[key].size for key in keys), uploads)


def _named(store: Store, keys: list[str]) -> set[str]:
    """The marks that count, what they name, and the published sets."""
    committed = {match["unit"]: key for key in keys if (match := _MANIFEST.fullmatch(key))}
    # An attempt that lost may have marked a checkpoint after the commit, which nobody goes on from.
    marks = [key for key in keys if (match := _CHECKPOINT.fullmatch(key)) and match["unit"] not in committed]
    published = {key: match["folder"] for key in keys if (match := _PUBLISHED.fullmatch(key))}
    whole = {key for key, folder in published.items() if f"{folder}/manifest.json" in published and "/.tmp-" not in key}
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        of_units = pool.map(lambda key: _named_by_manifest(store, key), committed.values())
        of_marks = pool.map(lambda key: named_by_checkpoint(store, key), marks)
        return whole.union(committed.values(), marks, *of_units, *of_marks)


def _named_by_manifest(store: Store, key: str) -> list[str]:
    manifest = from_json(UnitManifest, store.read(key), store.url_of(key))
    return [info.key for info in manifest.objects.values()]


def _attempt_of(key: str) -> str:
    """What was written together: an attempt at a unit, a published set, or an object alone; empty for what is not ours."""
    if match := _OF_ATTEMPT.fullmatch(key) or _CHECKPOINT.fullmatch(key):
        return f"{match['unit']}/{match['attempt']}"
    if match := _PUBLISHED.fullmatch(key):
        return match["folder"]
    return key if _ALONE.fullmatch(key) else ""
