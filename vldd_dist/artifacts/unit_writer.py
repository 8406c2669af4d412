"""Writing one attempt at a work unit: objects, checkpoints, and the commit."""

import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vldd_dist.artifacts.checkpoints import PARALLEL_UPLOADS, AlreadyCommitted, UnitCheckpoints
from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.keys import AGREED, BlobKey, CheckpointKey, ManifestKey, ObjectKey, prefix_of
from vldd_dist.artifacts.manifests import CheckpointRecord, UnitManifest, to_json
from vldd_dist.artifacts.units import UnitReader, is_done, mark_store
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import MissingObject, Store

logger = logging.getLogger(__name__)


class UnitWriter:
    """One attempt at a unit.

    Args:
        spec, inputs: what determines the unit's output, recorded in the manifest (inputs: role -> KIND/ID).

    Attributes:
        objects: name -> description of the objects that the manifest will list.
        checkpoints: the unit's checkpoints.
    """

    def __init__(self, store: Store, kind: str, unit_id: str, spec: dict[str, Any], inputs: dict[str, str]) -> None:
        self.store, self.kind, self.unit_id, self.spec, self.inputs = store, kind, unit_id, spec, inputs
        self.prefix = prefix_of(kind, unit_id)
        self.attempt = uuid.uuid4().hex[:8]
        self.objects: dict[str, ObjectInfo] = {}
        self.checkpoints = UnitCheckpoints(store, self.prefix, self.attempt, self._write)
        self._store_is_marked = False
        self._began_at = time.monotonic()

    def put(self, name: str, data: bytes) -> ObjectInfo:
        """Write an object of this attempt and list it in the manifest."""
        return self.adopt(name, self._write(ObjectKey(self.prefix, self.attempt, name).key, data))

    def put_blob(self, data: bytes) -> ObjectInfo:
        """Write an object under its sha256, so that equal objects of all units are stored once. `adopt` lists it."""
        info = ObjectInfo.of("", data)
        info = info.model_copy(update={"key": BlobKey(info.sha256).key})
        # Written even if the blob exists: this replaces a damaged one and renews its time of modification, so that garbage
        # collection does not remove it before the commit.
        return self._write(info.key, data, info)

    def adopt(self, name: str, info: ObjectInfo) -> ObjectInfo:
        """List an object that was written earlier: a blob, or an object of the attempt that wrote the checkpoint."""
        self.objects[name] = info
        return info

    def agree(self, objects: dict[str, bytes]) -> dict[str, bytes]:
        """The objects of the first attempt that calls this, which all attempts have to use. Attempts on other machines may
        compute different last bits, but must not write different bytes under a key that they share.

        The agreed objects are kept as a checkpoint of step 0 until the commit.

        Raises:
            AlreadyCommitted: another attempt has committed the unit.
            StoreError: the first attempt's objects are missing or damaged.
        """
        self.checkpoints.stop_if_committed()
        infos = self.checkpoints.write_objects(0, objects)
        key = CheckpointKey(self.prefix, 0, AGREED).key
        is_first = self.store.create(key, to_json(CheckpointRecord(step=0, objects=infos, facts={})))
        try:
            # Checked again after the record was created: a commit in the meantime has removed the agreed checkpoint, and
            # would not remove the objects of this attempt.
            self.checkpoints.stop_if_committed()
        except AlreadyCommitted:
            self.store.delete([*([key] if is_first else []), *(info.key for info in infos.values())])
            raise
        if is_first:
            return objects
        self.store.delete([info.key for info in infos.values()])
        agreed = self.checkpoints.read(key, lambda name: True)
        if agreed is None:
            self.checkpoints.stop_if_committed()
            raise StoreError(
                f"{self.store.url_of(key)}: an object that it lists is missing or damaged: remove the file and start again"
            )
        return {name: agreed.read(name) for name in agreed.names}

    def commit(self, facts: Facts, *, cpus: float | None = None, gpus: float | None = None) -> UnitManifest:
        """Create the manifest. If another attempt has committed the unit first, its manifest is returned.

        Args:
            facts: the unit's small results. A field that was not set is not stored, so that its default is read.
            cpus, gpus: of all workers of this attempt.

        Raises:
            StoreError: an object is missing. Checkpoints that need it are removed, so that the next attempt makes it again.
        """
        manifest = UnitManifest(
            kind=self.kind, unit=self.unit_id, spec=self.spec, inputs=self.inputs, objects=self.objects,
            facts=facts.model_dump(exclude_unset=True), seconds=round(time.monotonic() - self._began_at, 3),
            cpus=cpus, gpus=gpus,
        )  # fmt: skip
        manifest.check_facts(self.prefix)
        self._check_objects()
        self._mark_store()
        is_first = self.store.create(ManifestKey(self.prefix).key, to_json(manifest))
        self.checkpoints.remove_all()
        if not is_first:
            logger.warning("%s was committed by another attempt first: its result is used", self.prefix)
            return UnitReader(self.store, self.kind, self.unit_id).manifest
        return manifest

    def _check_objects(self) -> None:
        """Raises MissingObject unless every listed object is in the store: garbage collection may have removed one that was
        written long ago. It makes one listing, and one request for each object outside the unit."""
        listed = self.store.listing(self.prefix)

        def is_stored(info: ObjectInfo) -> bool:
            if info.key in listed:
                return listed[info.key].size == info.size
            try:
                return self.store.size(info.key) == info.size
            except MissingObject:
                return False

        infos = list({info.key: info for info in self.objects.values()}.values())
        with ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
            missing = [info.key for info, stored in zip(infos, pool.map(is_stored, infos), strict=True) if not stored]
        if not missing or is_done(self.store, self.kind, self.unit_id):
            return
        self.checkpoints.remove_needing(set(missing))
        raise MissingObject(
            f"{self.store.url_of(missing[0])}: missing, or of another size, when its unit was to be committed "
            f"({len(missing)} such objects): run the same command again, and give `vldd gc` a --min-age-hours longer than an "
            "attempt takes"
        )

    def _write(self, key: str, data: bytes, info: ObjectInfo | None = None) -> ObjectInfo:
        self._mark_store()
        # The object is hashed while it is sent.
        with ThreadPoolExecutor(1) as pool:
            described = pool.submit(lambda: info or ObjectInfo.of(key, data))
            self.store.write(key, data)
        return described.result()

    def _mark_store(self) -> None:
        # Once per attempt. A run has marked its store; this is for units that are executed without one.
        if not self._store_is_marked:
            mark_store(self.store)
            self._store_is_marked = True
