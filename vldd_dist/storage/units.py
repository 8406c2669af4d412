"""Work units in the store: objects first, manifest last; checkpoints in between.

    units/KIND/ID/manifest.json                     the commit, by conditional put
    units/KIND/ID/ATTEMPT/NAME                      objects of one attempt
    units/KIND/ID/checkpoints/STEP-ATTEMPT.json     what an attempt has so far
    blobs/AB/SHA256                                 objects named by their content, stored once

ATTEMPT is random, so that two writers of one unit never touch the same object: the manifest that wins is whole.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from vldd_dist.errors import StoreError
from vldd_dist.storage.manifests import CheckpointRecord, UnitManifest, from_json, to_json
from vldd_dist.storage.objects import DamagedObject, ObjectInfo, read_object, read_ranges
from vldd_dist.storage.store import MissingObject, Store

CHECKPOINTS_KEPT = 2
PARALLEL_UPLOADS = 4

Out = TypeVar("Out")

logger = logging.getLogger(__name__)


def prefix_of(kind: str, unit_id: str) -> str:
    return f"units/{kind}/{unit_id}"


def is_done(store: Store, kind: str, unit_id: str) -> bool:
    """A unit is done when its manifest exists; the existence of objects says nothing."""
    return store.exists(f"{prefix_of(kind, unit_id)}/manifest.json")


class AlreadyCommitted(StoreError):
    """Another writer has made the unit: its result stands, and this attempt has nothing left to do."""


class Checkpoint:
    """A verified checkpoint: `step`, `facts` and `read(name)`."""

    def __init__(self, record: CheckpointRecord, data: dict[str, bytes]) -> None:
        self.step, self.facts = record.step, record.facts
        self._data = data

    @property
    def names(self) -> list[str]:
        """Of the objects that were read."""
        return sorted(self._data)

    def read(self, name: str) -> bytes:
        return self._data[name]


class UnitWriter:
    """One attempt at a unit.

    Args:
        spec, inputs: the question, for the manifest (inputs: role -> KIND/ID).
    """

    def __init__(self, store: Store, kind: str, unit_id: str, spec: dict[str, Any], inputs: dict[str, str]) -> None:
        self.store, self.kind, self.unit_id, self.spec, self.inputs = store, kind, unit_id, spec, inputs
        self.prefix = prefix_of(kind, unit_id)
        self.attempt = uuid.uuid4().hex[:8]
        self.objects: dict[str, ObjectInfo] = {}

    def put(self, name: str, data: bytes) -> ObjectInfo:
        """Write an object of this attempt and list it in the manifest to come."""
        return self.adopt(name, self._write(f"{self.prefix}/{self.attempt}/{name}", data))

    def put_blob(self, data: bytes) -> ObjectInfo:
        """Write an object named by its content, stored once whoever writes it; not listed until adopted."""
        info = ObjectInfo.of("", data)
        info = info.model_copy(update={"key": f"blobs/{info.sha256[:2]}/{info.sha256}"})
        # Written even where one lies already: that mends a damaged blob, and makes an old one young, so that collecting
        # garbage does not take it between now and the commit.
        self.store.write(info.key, data)
        return info

    def adopt(self, name: str, info: ObjectInfo) -> ObjectInfo:
        """List an object written earlier (a blob, or by the attempt a checkpoint came from)."""
        self.objects[name] = info
        return info

    def save_checkpoint(self, step: int, objects: dict[str, bytes], facts: dict[str, Any]) -> None:
        """Keep what is needed to go on from `step`; the last two checkpoints are kept.

        Raises:
            AlreadyCommitted: another writer has made the unit in the meantime.
        """
        self.mark_checkpoint(step, self.write_for_checkpoint(step, objects), facts)

    def write_for_checkpoint(self, step: int, objects: dict[str, bytes]) -> dict[str, ObjectInfo]:
        """Write objects of a checkpoint whose mark follows, by this rank or another.

        Raises:
            AlreadyCommitted: another writer has made the unit in the meantime.
        """
        if is_done(self.store, self.kind, self.unit_id):
            raise AlreadyCommitted(f"{self.prefix} was committed by another writer first; its result stands")
        folder = f"{self.prefix}/{self.attempt}/checkpoint-{step:08d}"
        with ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
            written = pool.map(lambda item: self._write(f"{folder}/{item[0]}", item[1]), objects.items())
            return dict(zip(objects, written, strict=True))

    def mark_checkpoint(self, step: int, infos: dict[str, ObjectInfo], facts: dict[str, Any]) -> None:
        """Make a checkpoint of objects that are written."""
        record = CheckpointRecord(step=step, objects=infos, facts=facts)
        self.store.write(f"{self.prefix}/checkpoints/{step:08d}-{self.attempt}.json", to_json(record))
        for key in self._checkpoint_keys()[:-CHECKPOINTS_KEPT]:
            self._remove_checkpoint(key)

    def checkpoint_keys(self) -> list[str]:
        """Marks of the checkpoints, the highest step first."""
        return self._checkpoint_keys()[::-1]

    def read_checkpoint(self, key: str, wanted: Callable[[str], bool]) -> Checkpoint | None:
        """The wanted objects of a checkpoint, of whatever attempt; none where it or one of them is gone or damaged.

        Raises:
            StoreError: the store cannot be read; that is no reason to begin again.
        """
        try:
            record = from_json(CheckpointRecord, self.store.read(key), self.store.url_of(key))
            data = {name: read_object(self.store, info) for name, info in record.objects.items() if wanted(name)}
            return Checkpoint(record, data)
        except (MissingObject, DamagedObject) as error:
            logger.warning("checkpoint passed over: %s", error)
            return None

    def commit(self, facts: dict[str, Any]) -> UnitManifest:
        """Make the unit done. When another writer was first, its manifest is returned and ours forgotten."""
        manifest = UnitManifest(
            kind=self.kind, unit=self.unit_id, spec=self.spec, inputs=self.inputs, objects=self.objects, facts=facts
        )
        manifest.check_facts(self.prefix)
        won = self.store.create(f"{self.prefix}/manifest.json", to_json(manifest))
        for key in self._checkpoint_keys():
            self._remove_checkpoint(key)
        if not won:
            logger.warning("%s was committed by another writer first; its result stands", self.prefix)
            return UnitReader(self.store, self.kind, self.unit_id).manifest
        return manifest

    def _write(self, key: str, data: bytes) -> ObjectInfo:
        self.store.write(key, data)
        return ObjectInfo.of(key, data)

    def _checkpoint_keys(self) -> list[str]:
        return self.store.list(f"{self.prefix}/checkpoints")

    def _remove_checkpoint(self, key: str) -> None:
        # The mark first: a checkpoint whose objects are half gone must not look whole.
        try:
            record = from_json(CheckpointRecord, self.store.read(key), self.store.url_of(key))
        except (MissingObject, DamagedObject):
            record = None
        self.store.delete([key])
        if record:
            self.store.delete([info.key for info in record.objects.values()])


class UnitReader:
    """A committed unit.

    Raises:
        StoreError: the unit is not done, or its manifest names what is not its own.
    """

    def __init__(self, store: Store, kind: str, unit_id: str) -> None:
        self.store = store
        self.prefix = prefix_of(kind, unit_id)
        key = f"{self.prefix}/manifest.json"
        self.manifest = from_json(UnitManifest, store.read(key), store.url_of(key))
        self.manifest.check_facts(store.url_of(key))
        for name, info in self.manifest.objects.items():
            if ".." in info.key.split("/") or not info.key.startswith((f"{self.prefix}/", "blobs/")):
                raise StoreError(f"{store.url_of(key)}: object {name} points outside its unit ({info.key}): refused")

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts

    def info(self, name: str) -> ObjectInfo:
        try:
            return self.manifest.objects[name]
        except KeyError:
            raise StoreError(f"{self.store.url_of(self.prefix)}: has no object {name!r}") from None

    def url(self, name: str) -> str:
        return self.store.url_of(self.info(name).key)

    def read(self, name: str) -> bytes:
        """An object, verified by size and sha256. Raises StoreError naming it and the mend."""
        return self._or_how_to_mend(lambda: read_object(self.store, self.info(name)))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each [start, stop) of an object, verified, no more read than the blocks that hold them."""
        return self._or_how_to_mend(lambda: read_ranges(self.store, self.info(name), ranges))

    def _or_how_to_mend(self, read: Callable[[], Out]) -> Out:
        try:
            return read()
        except (MissingObject, DamagedObject) as error:
            raise type(error)(f"{error}; remove {self.prefix}/manifest.json to have the unit made again") from None
