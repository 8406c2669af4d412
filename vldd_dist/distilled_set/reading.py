"""Reading distilled sets without loading them: the manifest, the card, verification, and which sets a store has."""

import contextlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from vldd_dist.artifacts.keys import PUBLISHED
from vldd_dist.artifacts.manifests import from_json
from vldd_dist.artifacts.units import is_store
from vldd_dist.distilled_set.manifest import MANIFEST, DistilledManifest
from vldd_dist.errors import StoreError
from vldd_dist.store.backends.listing import NEVER
from vldd_dist.store.location import Location
from vldd_dist.store.objects import BLOCK_BYTES, PARALLEL_READS, Block, DamagedObject, ObjectInfo, load_block
from vldd_dist.store.store import MissingObject, Store

CARD = "README.md"
# A larger text is not a card, and rendering it in the terminal would take minutes.
CARD_BYTES = 1 << 20

# Of a set of 8 TiB.
LARGEST_MANIFEST_BYTES = 64 << 20

# What the names of a set's files consist of. Other files could lie outside the folder, or run code when a user enters it
# (`.git/config`, `torch.py`).
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SUFFIXES = (".safetensors", ".jsonl", ".json", ".png", ".tar", ".md")

# Called with (bytes done, bytes in total).
ByteCallback = Callable[[int, int], None]


def read_manifest(store: Store) -> DistilledManifest:
    """The manifest of the set at a store's URL. Raises StoreError if there is none, or it is invalid."""
    return parse_manifest(store, manifest_bytes(store))


def manifest_bytes(store: Store, key: str = MANIFEST) -> bytes:
    """The bytes of a set's manifest.json. Raises MissingObject if there is none, StoreError if it is too long or the URL is a
    store's.

    Args:
        key: of the manifest, in a store with several sets.
    """
    try:
        data = store.read(key, LARGEST_MANIFEST_BYTES)
    except MissingObject as error:
        if key == MANIFEST and is_store(store):
            raise StoreError(f"{store.url}: is a store, not a distilled set: `vldd list {store.url}` lists its sets") from None
        # The cause is without the advice, which is for whoever typed a URL.
        raise MissingObject(
            f"{error}: name the folder of a distilled set (`vldd list STORE` lists those of a store)"
        ) from error
    if len(data) > LARGEST_MANIFEST_BYTES:
        mib = LARGEST_MANIFEST_BYTES >> 20
        raise StoreError(f"{store.url_of(key)}: more than {mib} MiB: this is no manifest of a distilled set")
    return data


def parse_manifest(store: Store, data: bytes) -> DistilledManifest:
    """The manifest in the bytes of a set's manifest.json. Raises StoreError if it is invalid."""
    source = store.url_of(MANIFEST)
    manifest = from_json(DistilledManifest, data, source)
    for name, info in manifest.objects.items():
        # In a set, each object's key equals its name, so that no object lies outside the folder.
        if info.key != name:
            raise StoreError(f"{source}: object {name!r} refers to {info.key!r}: the manifest is rejected")
        # A block is read into memory as a whole.
        if any(block.length > BLOCK_BYTES for block in info.block_list()):
            raise StoreError(f"{source}: object {name!r} has blocks of more than {BLOCK_BYTES} bytes: the manifest is rejected")
    _check_names(list(manifest.objects), source)
    return manifest


def listed_objects(manifest: bytes | None) -> set[str]:
    """The names of the objects in the manifest of a set that is to be replaced; none if it is missing (None) or invalid."""
    with contextlib.suppress(StoreError):
        if manifest is not None:
            return set(from_json(DistilledManifest, manifest, MANIFEST).objects)
    return set()


def _check_names(names: list[str], source: str) -> None:
    """Raises StoreError unless files with these names can exist in one folder on every file system."""
    used = {MANIFEST.casefold()}
    folders = {folder.as_posix().casefold() for name in names for folder in Path(name).parents}
    for name in names:
        parts = name.split("/")
        if not (all(_PART.fullmatch(part) for part in parts) and name.endswith(_SUFFIXES)):
            raise StoreError(f"{source}: {name[:300]!r} is not a file of a distilled set: the manifest is rejected")
        if max(len(part) for part in parts) > 255:
            raise StoreError(
                f"{source}: the object name {name[:40]!r}... is too long for file systems: the manifest is rejected"
            )
        if name.casefold() in used:
            raise StoreError(f"{source}: the object {name!r} has the name of another file of the set: the manifest is rejected")
        used.add(name.casefold())
    if both := used & folders:
        raise StoreError(
            f"{source}: {min(both)!r} is the name of both a file and a folder of the set: the manifest is rejected"
        )


def read_card(store: Store) -> str:
    """The Markdown of a set's README, without its YAML header. Raises StoreError if there is none, or it is damaged."""
    info, source = read_manifest(store).objects.get(CARD), store.url_of(CARD)
    if info is None:
        raise StoreError(f"{store.url_of(MANIFEST)}: lists no {CARD}: the set has no card to show")
    if info.size > CARD_BYTES:
        raise StoreError(f"{source}: {info.size} bytes are too many for a card (at most {CARD_BYTES}): it is not shown")
    _check_size(store, info)
    try:
        text = info.verify(store.read(CARD, info.size), source).decode()
    except UnicodeDecodeError:
        raise StoreError(f"{source}: not UTF-8: the set has no card to show") from None
    parts = text.split("---\n", 2)
    return parts[2] if len(parts) == 3 and not parts[0] else text


def verify(url: Location, progress: ByteCallback = lambda done, total: None) -> DistilledManifest:
    """Check the size and sha256 of every object of a set. Raises StoreError naming the first damaged object."""
    store = Store(url)
    manifest = read_manifest(store)
    check_sizes(store, manifest)

    def check(info: ObjectInfo, block: Block) -> None:
        # Without a result, which would be kept until all earlier blocks are read.
        load_block(store, info, block)

    for_each_block(manifest, check, progress)
    return manifest


class ListedSet(NamedTuple):
    """A set in a store: its manifest, or the error if it cannot be read, and when it was published, by the store's clock; None:
    the store does not report it."""

    manifest: DistilledManifest | StoreError
    moment: datetime | None


def published_sets(store: Store) -> dict[str, ListedSet]:
    """Folder under `distilled/` -> its set; in the order in which the sets were published."""

    def read(folder: str) -> DistilledManifest | StoreError:
        try:
            # This store is only asked for URLs: a connection for each set would take longer than its manifest.
            return parse_manifest(Store(store.url_of(folder)), manifest_bytes(store, f"{folder}/{MANIFEST}"))
        except StoreError as error:
            return error

    listed = {key.rpartition("/")[0]: one for key, one in store.listing(PUBLISHED).items() if key.endswith(f"/{MANIFEST}")}
    moments = {folder: None if one.modified == NEVER else one.modified for folder, one in listed.items()}
    folders = sorted(listed, key=lambda folder: (listed[folder].modified, folder))
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return {
            folder: ListedSet(manifest, moments[folder])
            for folder, manifest in zip(folders, pool.map(read, folders), strict=True)
        }


def check_sizes(store: Store, manifest: DistilledManifest) -> None:
    """Check the sizes in a manifest before memory or disk space is allocated for them. Raises DamagedObject or
    MissingObject."""
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        list(pool.map(lambda info: _check_size(store, info), manifest.objects.values()))


def _check_size(store: Store, info: ObjectInfo) -> None:
    size = store.size(info.key)
    if size != info.size:
        raise DamagedObject(f"{store.url_of(info.key)}: {size} bytes, its manifest says {info.size}: the object is damaged")


def for_each_block(manifest: DistilledManifest, work: Callable[[ObjectInfo, Block], None], progress: ByteCallback) -> None:
    """Call `work` for each block of the set, in parallel. The whole set is never in memory."""
    blocks = [(info, block) for info in manifest.objects.values() for block in info.block_list()]
    total, done = sum(block.length for _, block in blocks), 0
    progress(0, total)
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for (_, block), _ in zip(blocks, pool.map(lambda pair: work(*pair), blocks), strict=True):
            done += block.length
            progress(done, total)
