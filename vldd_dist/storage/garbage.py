"""What dead attempts left behind: objects that no manifest and no checkpoint names, and uploads in parts that nobody ended,
old enough to be nobody's work.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vldd_dist.errors import StoreError
from vldd_dist.storage.files import TEMPORARY
from vldd_dist.storage.manifests import CheckpointRecord, UnitManifest, from_json
from vldd_dist.storage.objects import ObjectInfo
from vldd_dist.storage.store import MissingObject, Store

LOOKS = 5
ROOMS = ("units", "blobs", "distilled")


@dataclass(frozen=True)
class Garbage:
    """Objects to remove, how many bytes that frees, and the keys of unended uploads to abort."""

    keys: list[str]
    size: int
    uploads: list[str]


def remove_garbage(store: Store, garbage: Garbage, min_age: timedelta) -> None:
    """Remove what `find_garbage` found with the same age."""
    before = datetime.now(UTC) - min_age
    for key in garbage.keys:
        # A blob that someone has written again since is theirs.
        if _is_older(store, key, before):
            store.delete([key])
    for room in ROOMS:
        store.abort_uploads(room, min_age)


def find_garbage(store: Store, min_age: timedelta, now: datetime | None = None) -> Garbage:
    """Objects under `units/`, `blobs/` and `distilled/` that nothing names and that are older than `min_age`. A folder under
    `distilled/` belongs to its manifest.

    The age protects attempts that are running: they write objects before the mark that names them. An attempt is as old as
    the last thing it wrote.

    Raises:
        StoreError: a manifest cannot be read; then nothing is known to be garbage.
    """
    for _ in range(LOOKS):
        with contextlib.suppress(MissingObject):
            return _look(store, min_age, now or datetime.now(UTC))
    raise StoreError(f"{store.url}: units were committed while it was looked through, each time: try again in a while")


def _look(store: Store, min_age: timedelta, now: datetime) -> Garbage:
    """Raises MissingObject when a mark that was listed is gone: what it named may have another mark by now."""
    units = store.list("units", temporary=True)
    marks = [key for key in units if key.endswith("/manifest.json") or "/checkpoints/" in key]
    named = set(marks)
    for key in marks:
        named |= {info.key for info in _objects(store, key)}
    sets = store.list("distilled", temporary=True)
    published = {_folder_of(key) for key in sets if key == f"{_folder_of(key)}/manifest.json"}
    named |= {key for key in sets if _folder_of(key) in published and TEMPORARY not in key}
    unnamed = [key for key in [*units, *sets, *store.list("blobs", temporary=True)] if key not in named]
    attempts: dict[str, list[str]] = {}
    for key in unnamed:
        attempts.setdefault(_attempt_of(key), []).append(key)
    keys = [
        key for written in attempts.values() if all(_is_older(store, key, now - min_age) for key in written) for key in written
    ]
    uploads = [key for room in ROOMS for key in store.abort_uploads(room, min_age, abort=False)]
    return Garbage(keys, sum(store.size(key) for key in keys), uploads)


def _folder_of(key: str) -> str:
    return "/".join(key.split("/")[:2])


def _attempt_of(key: str) -> str:
    """What was written together: units/KIND/ID/ATTEMPT, distilled/NAME, or a blob alone."""
    return {"units": "/".join(key.split("/")[:4]), "distilled": _folder_of(key)}.get(key.partition("/")[0], key)


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
