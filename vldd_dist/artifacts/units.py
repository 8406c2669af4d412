"""Work units in the store: objects first, manifest last; checkpoints in between.

    units/KIND/ID/manifest.json                     the commit, by conditional put
    units/KIND/ID/ATTEMPT/NAME                      objects of one attempt
    units/KIND/ID/checkpoints/STEP-ATTEMPT.json     what an attempt has so far
    units/KIND/ID/checkpoints/00000000-agreed.json  what all attempts are to write to keys that they share
    blobs/AB/SHA256                                 objects named by their content, stored once
    vldd-store.json                                 says that this is a store of units, before the first of them

ATTEMPT is random, so that two writers of one unit never touch the same object: the manifest that wins is whole.
"""

import contextlib
import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from vldd_dist.artifacts.manifests import CheckpointRecord, UnitManifest, from_json, to_json
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import DamagedObject, ObjectInfo, read_object, read_ranges
from vldd_dist.store.store import MissingObject, Store

CHECKPOINTS_KEPT = 2
PARALLEL_UPLOADS = 4

Out = TypeVar("Out")

STORE_MARK, STORE_MARK_DATA = "vldd-store.json", b'{"kind": "vldd_store"}\n'
AGREED = "agreed"

logger = logging.getLogger(__name__)


def is_store(store: Store) -> bool:
    """Whether a unit was ever written here, by the mark that goes before the first."""
    try:
        return store.read(STORE_MARK) == STORE_MARK_DATA
    except MissingObject:
        return False


def prefix_of(kind: str, unit_id: str) -> str:
    return f"units/{kind}/{unit_id}"


def is_done(store: Store, kind: str, unit_id: str) -> bool:
    """A unit is done when its manifest exists; the existence of objects says nothing."""
    return store.exists(f"{prefix_of(kind, unit_id)}/manifest.json")


def named_by_checkpoint(store: Store, mark: str) -> list[str]:
    """Keys of the objects that a checkpoint needs, its snapshots among them.

    Raises:
        MissingObject: the mark is gone.
        StoreError: it cannot be read.
    """
    source = store.url_of(mark)
    record = from_json(CheckpointRecord, store.read(mark), source)
    try:
        snapshots = [ObjectInfo(**info) for info in record.facts.get("snapshots", {}).values()]
    except (AttributeError, TypeError, ValueError):
        raise StoreError(f"{source}: the checkpoint names its snapshots in an unknown way: nothing is removed") from None
    return [info.key for info in (*record.objects.values(), *snapshots)]


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
        self._is_marked = False

    def put(self, name: str, data: bytes) -> ObjectInfo:
        """Write an object of this attempt and list it in the manifest to come."""
        return self.adopt(name, self._write(f"{self.prefix}/{self.attempt}/{name}", data))

    def put_blob(self, data: bytes) -> ObjectInfo:
        """Write an object named by its content, stored once whoever writes it; not listed until adopted."""
        info = ObjectInfo.of("", data)
        info = info.model_copy(update={"key": f"blobs/{info.sha256[:2]}/{info.sha256}"})
        # Written even where one lies already: that mends a damaged blob, and makes an old one young, so that collecting
        # garbage does not take it between now and the commit.
        self._mark_store()
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
        self._stop_if_done()
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

    def agree(self, objects: dict[str, bytes]) -> dict[str, bytes]:
        """Of all attempts that come here the first one's objects, so that each writes the same to keys that they share.

        Kept as a checkpoint, which the commit removes. Attempts on other machines may compute other last bits.

        Raises:
            AlreadyCommitted: another writer has made the unit in the meantime.
            StoreError: the first one's objects are damaged.
        """
        infos = self.write_for_checkpoint(0, objects)
        mark = f"{self.prefix}/checkpoints/{0:08d}-{AGREED}.json"
        won = self.store.create(mark, to_json(CheckpointRecord(step=0, objects=infos, facts={})))
        try:
            # After the mark: the commit removes the one that was agreed on, and leaves room for ours.
            self._stop_if_done()
        except AlreadyCommitted:
            self.store.delete([*([mark] if won else []), *(info.key for info in infos.values())])
            raise
        if won:
            return objects
        self.store.delete([info.key for info in infos.values()])
        agreed = self.read_checkpoint(mark, lambda name: True)
        if agreed is None:
            self._stop_if_done()
            raise StoreError(f"{self.store.url_of(mark)}: what it names is gone or damaged: remove it, and start again")
        return {name: agreed.read(name) for name in agreed.names}

    def commit(self, facts: dict[str, Any]) -> UnitManifest:
        """Make the unit done. When another writer was first, its manifest is returned and ours forgotten.

        Raises:
            StoreError: an object is gone; the checkpoints that need it are removed, so that a new attempt makes it again.
        """
        manifest = UnitManifest(
            kind=self.kind, unit=self.unit_id, spec=self.spec, inputs=self.inputs, objects=self.objects, facts=facts
        )
        manifest.check_facts(self.prefix)
        self._check_objects()
        self._mark_store()
        won = self.store.create(f"{self.prefix}/manifest.json", to_json(manifest))
        for key in self._checkpoint_keys():
            self._remove_checkpoint(key)
        if not won:
            logger.warning("%s was committed by another writer first; its result stands", self.prefix)
            return UnitReader(self.store, self.kind, self.unit_id).manifest
        return manifest

    def _check_objects(self) -> None:
        """What was written long ago may have been taken for garbage: one listing, and a look at each object outside it."""
        listed = self.store.listing(self.prefix)

        def is_there(info: ObjectInfo) -> bool:
            if info.key in listed:
                return listed[info.key].size == info.size
            try:
                return self.store.size(info.key) == info.size
            except MissingObject:
                return False

        infos = list({info.key: info for info in self.objects.values()}.values())
        with ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
            gone = [info.key for info, there in zip(infos, pool.map(is_there, infos), strict=True) if not there]
        if not gone or is_done(self.store, self.kind, self.unit_id):
            return
        for mark in self._checkpoint_keys():
            with contextlib.suppress(MissingObject):
                if not set(gone).isdisjoint(named_by_checkpoint(self.store, mark)):
                    self._remove_checkpoint(mark)
        raise MissingObject(
            f"{self.store.url_of(gone[0])}: gone, or of another size, before its unit was committed ({len(gone)} of these): "
            "start the same command again, and let `vldd gc` remove only what is older than an attempt takes (--min-age-hours)"
        )

    def _stop_if_done(self) -> None:
        if is_done(self.store, self.kind, self.unit_id):
            raise AlreadyCommitted(f"{self.prefix} was committed by another writer first; its result stands")

    def _write(self, key: str, data: bytes) -> ObjectInfo:
        self._mark_store()
        self.store.write(key, data)
        return ObjectInfo.of(key, data)

    def _mark_store(self) -> None:
        # Once an attempt; whoever else does it at the same time writes the same.
        if not self._is_marked:
            if not is_store(self.store):
                self.store.write(STORE_MARK, STORE_MARK_DATA)
            self._is_marked = True

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
