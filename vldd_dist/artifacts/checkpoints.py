"""Checkpoints of a unit that is not committed yet: a record that lists objects, written after those objects.

An attempt resumes from the newest record of any attempt whose objects can all be read. Objects belong to their checkpoint and
are removed with it, except blobs, which the later manifest lists too.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from vldd_dist.artifacts.keys import CheckpointKey, ManifestKey, ObjectKey, checkpoints_of
from vldd_dist.artifacts.manifests import CheckpointRecord, from_json, to_json
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import DamagedObject, ObjectInfo, again_if_damaged, read_object
from vldd_dist.store.store import MissingObject, Store

CHECKPOINTS_KEPT = 2
PARALLEL_UPLOADS = 4

logger = logging.getLogger(__name__)


class AlreadyCommitted(StoreError):
    """Another attempt has committed the unit. Its result is used, and this attempt can stop."""


class Checkpoint:
    """A verified checkpoint: its `step`, `facts` and the bytes of the objects that were read.

    Attributes:
        listed: sorted names of all its objects, whether they were read or not.
    """

    def __init__(self, record: CheckpointRecord, data: dict[str, bytes]) -> None:
        self.step, self.facts, self.listed = record.step, record.facts, sorted(record.objects)
        self._data = data

    @property
    def names(self) -> list[str]:
        """Names of the objects that were read, sorted."""
        return sorted(self._data)

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        return self._data[name]


def keys_of_checkpoint(store: Store, key: str) -> list[str]:
    """Keys of all objects that a checkpoint needs, including the snapshots that its facts list.

    Args:
        key: key of the checkpoint's record.

    Raises:
        MissingObject: there is no record under this key.
        StoreError: the record cannot be read.
    """
    source = store.url_of(key)
    record = from_json(CheckpointRecord, store.read(key), source)
    try:
        snapshots = [ObjectInfo(**info) for info in record.facts.get("snapshots", {}).values()]
    except (AttributeError, TypeError, ValueError):
        raise StoreError(
            f"{source}: the checkpoint lists its snapshots in an unknown form, and nothing is removed: use the version of "
            "vldd_dist that wrote it"
        ) from None
    return [info.key for info in (*record.objects.values(), *snapshots)]


class UnitCheckpoints:
    """The checkpoints of one unit, written by one attempt and read from all attempts.

    Args:
        prefix: the unit's prefix from `keys.prefix_of`.
        attempt: name of this attempt.
        write: writes an object under a key and returns its description.
    """

    def __init__(self, store: Store, prefix: str, attempt: str, write: Callable[[str, bytes], ObjectInfo]) -> None:
        self.store, self.prefix, self.attempt, self._write = store, prefix, attempt, write

    def save(
        self, step: int, objects: Mapping[str, bytes], facts: dict[str, Any], stored: Mapping[str, ObjectInfo] | None = None
    ) -> None:
        """Write a checkpoint from which an attempt can resume at `step`; the last two checkpoints are kept.

        Args:
            objects: name -> bytes of objects to write.
            stored: name -> description of objects that are already in the store, for example blobs.

        Raises:
            AlreadyCommitted: another attempt has committed the unit.
        """
        self.stop_if_committed()
        self.write_record(step, self.write_objects(step, objects) | dict(stored or {}), facts)

    def write_objects(self, step: int, objects: Mapping[str, bytes]) -> dict[str, ObjectInfo]:
        """Write objects of a checkpoint. This rank or another writes its record later."""

        def write(item: tuple[str, bytes]) -> ObjectInfo:
            name, data = item
            return self._write(ObjectKey(self.prefix, self.attempt, f"checkpoint-{step:08d}/{name}").key, data)

        with ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
            return dict(zip(objects, pool.map(write, objects.items()), strict=True))

    def write_record(self, step: int, infos: dict[str, ObjectInfo], facts: dict[str, Any]) -> None:
        """Write the record of a checkpoint whose objects are written, and remove all but the last two checkpoints."""
        record = CheckpointRecord(step=step, objects=infos, facts=facts)
        self.store.write(CheckpointKey(self.prefix, step, self.attempt).key, to_json(record))
        for key in self._ascending()[:-CHECKPOINTS_KEPT]:
            self.remove(key)

    def keys(self) -> list[str]:
        """Keys of the records of all attempts, the highest step first."""
        return self._ascending()[::-1]

    def read(self, key: str, wanted: Callable[[str], bool]) -> Checkpoint | None:
        """A checkpoint with the objects whose names are `wanted`; None if it or one of them is missing or damaged.

        Raises:
            StoreError: the store cannot be read. In this case the caller must not start from the beginning.
        """
        try:
            record = again_if_damaged(lambda: from_json(CheckpointRecord, self.store.read(key), self.store.url_of(key)))
            data = {name: read_object(self.store, info) for name, info in record.objects.items() if wanted(name)}
            return Checkpoint(record, data)
        except (MissingObject, DamagedObject) as error:
            logger.warning("checkpoint skipped: %s", error)
            return None

    def remove(self, key: str) -> None:
        """Remove a checkpoint with its objects, except blobs."""
        try:
            record = from_json(CheckpointRecord, self.store.read(key), self.store.url_of(key))
        except (MissingObject, DamagedObject):
            record = None
        # The record is removed first, so that no reader finds a checkpoint with missing objects.
        self.store.delete([key])
        if record:
            self.store.delete([info.key for info in record.objects.values() if info.key.startswith(f"{self.prefix}/")])

    def remove_all(self) -> None:
        """Remove the checkpoints of all attempts."""
        for key in self._ascending():
            self.remove(key)

    def remove_needing(self, keys: set[str]) -> None:
        """Remove every checkpoint that needs one of these objects."""
        for record in self._ascending():
            try:
                needed = keys_of_checkpoint(self.store, record)
            except MissingObject:
                continue
            if not keys.isdisjoint(needed):
                self.remove(record)

    def stop_if_committed(self) -> None:
        """Raises AlreadyCommitted if the unit has a manifest."""
        if self.is_committed():
            self.stop()

    def is_committed(self) -> bool:
        """Whether the unit has a manifest."""
        return self.store.exists(ManifestKey(self.prefix).key)

    def stop(self) -> NoReturn:
        """Raises AlreadyCommitted."""
        raise AlreadyCommitted(f"{self.prefix} was committed by another attempt first: its result is used")

    def _ascending(self) -> list[str]:
        """Keys of the records of all attempts, the lowest step first."""
        return self.store.keys(checkpoints_of(self.prefix))
