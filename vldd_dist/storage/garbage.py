"""What dead attempts left behind: objects that no manifest and no checkpoint names, and uploads in parts that nobody ended,
old enough to be nobody's work.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vldd_dist.errors import StoreError
from vldd_dist.storage.files import TEMPORARY
from vldd_dist.storage.manifests import CheckpointRecord, UnitManifest, from_json
from vldd_dist.storage.objects import ObjectInfo
from vldd_dist.storage.store import MissingObject, Store

ROOMS = ("units", "blobs", "distilled")


@dataclass(frozen=True)
class Garbage:
    """Objects to remove, how many bytes that frees, and the keys of unended uploads to abort."""

    keys: list[str]
    size: int
    uploads: list[str]


def remove_garbage(store: Store, garbage: Garbage, min_age: timedelta) -> None:
    """Remove what `find_garbage` found with the same age."""
    store.delete(garbage.keys)
    for room in ROOMS:
        store.abort_uploads(room, min_age)


def find_garbage(store: Store, min_age: timedelta, now: datetime | None = None) -> Garbage:
    """Objects under `units/`, `blobs/` and `distilled/` that nothing names and that are older than `min_age`. A folder under
    `distilled/` belongs to its manifest.

    The age protects attempts that are running: they write objects before the mark that names them.

    Raises:
        StoreError: a manifest cannot be read; then nothing is known to be garbage.
    """
    now = now or datetime.now(UTC)
    units = store.list("units", temporary=True)
    marks = [key for key in units if key.endswith("/manifest.json") or "/checkpoints/" in key]
    named = set(marks)
    for key in marks:
        named |= {info.key for info in _objects(store, key)}
    sets = store.list("distilled", temporary=True)
    published = {_folder_of(key) for key in sets if key == f"{_folder_of(key)}/manifest.json"}
    named |= {key for key in sets if _folder_of(key) in published and TEMPORARY not in key}
    unnamed = [key for key in [*units, *sets, *store.list("blobs", temporary=True)] if key not in named]
    keys = [key for key in unnamed if _is_older(store, key, now - min_age)]
    uploads = [key for room in ROOMS for key in store.abort_uploads(room, min_age, abort=False)]
    return Garbage(keys, sum(store.size(key) for key in keys), uploads)


def _folder_of(key: str) -> str:
    return "/".join(key.split("/")[:2])


def _is_older(store: Store, key: str, moment: datetime) -> bool:
    try:
        return store.modified(key) < moment
    except MissingObject:
        return False  # removed, or a finished writer's temporary file, since the listing


def _objects(store: Store, mark: str) -> list[ObjectInfo]:
    data, source = store.read(mark), store.url_of(mark)
    if mark.endswith("/manifest.json"):
        return list(from_json(UnitManifest, data, source).objects.values())
    record = from_json(CheckpointRecord, data, source)
    snapshots = record.facts.get("snapshots", {})
    try:
        return [*record.objects.values(), *(ObjectInfo(**info) for info in snapshots.values())]
    except (TypeError, ValueError):
        raise StoreError(f"{source}: the checkpoint names its snapshots in an unknown way: nothing is removed") from None
