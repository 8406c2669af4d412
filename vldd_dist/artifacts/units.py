"""Work units in the store: reading a committed unit. `keys` has the keys of their objects."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from vldd_dist.artifacts.facts import FactsType
from vldd_dist.artifacts.keys import BLOBS, STORE_MARK, ManifestKey, prefix_of
from vldd_dist.artifacts.manifests import UnitManifest, from_json
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import DamagedObject, ObjectInfo, again_if_damaged, read_object, read_ranges
from vldd_dist.store.store import MissingObject, Store

STORE_MARK_DATA = b'{"kind": "vldd_store"}\n'
# Largest number of units of a kind whose manifests `kept_readers` keeps in memory.
KEPT_READERS = 64

Out = TypeVar("Out")


def is_store(store: Store) -> bool:
    """Whether this is a store of ours: a run writes a mark before its first unit."""
    try:
        return store.read(STORE_MARK, len(STORE_MARK_DATA)) == STORE_MARK_DATA
    except MissingObject:
        return False


def mark_store(store: Store) -> None:
    """Write the mark of `is_store` unless it is there. Several processes may do it at the same time, with the same bytes."""
    if not is_store(store):
        store.write(STORE_MARK, STORE_MARK_DATA)


def is_done(store: Store, kind: str, unit_id: str) -> bool:
    """Whether the unit is committed, that is, whether its manifest exists."""
    return store.exists(ManifestKey(prefix_of(kind, unit_id)).key)


class UnitReader:
    """A committed unit.

    Raises:
        StoreError: the unit is not committed, or its manifest lists an object outside the unit and the blobs.
    """

    def __init__(self, store: Store, kind: str, unit_id: str) -> None:
        self.store = store
        self.prefix = prefix_of(kind, unit_id)
        key = ManifestKey(self.prefix).key
        self.manifest = again_if_damaged(lambda: from_json(UnitManifest, store.read(key), store.url_of(key)))
        self.manifest.check_facts(store.url_of(key))
        for name, info in self.manifest.objects.items():
            if ".." in info.key.split("/") or not info.key.startswith((f"{self.prefix}/", f"{BLOBS}/")):
                raise StoreError(
                    f"{store.url_of(key)}: object {name} lies outside its unit ({info.key}): the manifest is rejected"
                )

    def facts_as(self, kind: type[FactsType]) -> FactsType:
        """The unit's small results, in the model that its stage declares (`StageSpec.result`)."""
        return kind.model_validate(self.manifest.facts)

    def info(self, name: str) -> ObjectInfo:
        """Key, size and checksums of an object. Raises StoreError if the unit has no object of this name."""
        try:
            return self.manifest.objects[name]
        except KeyError:
            raise StoreError(f"{self.store.url_of(self.prefix)}: the unit has no object {name!r}") from None

    def url(self, name: str) -> str:
        """The full URL of an object."""
        return self.store.url_of(self.info(name).key)

    def read(self, name: str) -> bytes:
        """A whole object, verified by size and sha256. Raises StoreError, which names the object and says what to do."""
        return self._with_advice(lambda: read_object(self.store, self.info(name)))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes [start, stop) of each range, verified. Only the blocks that overlap a range are read."""
        return self._with_advice(lambda: read_ranges(self.store, self.info(name), ranges))

    def _with_advice(self, read: Callable[[], Out]) -> Out:
        try:
            return read()
        except (MissingObject, DamagedObject) as error:
            raise type(error)(f"{error}; remove {ManifestKey(self.prefix).key} to have the unit made again") from None


def kept_readers(store: Store, kind: str) -> Callable[[str], UnitReader]:
    """The readers of units of one kind, by id of the unit. Those used last are kept, with their manifests."""
    return lru_cache(KEPT_READERS)(lambda unit_id: UnitReader(store, kind, unit_id))
