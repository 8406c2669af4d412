"""Bringing a distilled set to where it is used: in parallel, verified, resumed, and there only when it is whole."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vldd_dist.artifacts.manifests import from_json
from vldd_dist.control_characters import one_line
from vldd_dist.distilled_set.distilled import DistilledManifest
from vldd_dist.distilled_set.partial_folder import MARKER, PartialFolder, local_errors
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import PARALLEL_PIECES, DamagedObject, ObjectInfo, Piece, load_piece, sha256_hex
from vldd_dist.store.store import MissingObject, Store

MANIFEST, CARD = "manifest.json", "README.md"
# A card is a page; a longer text is none, and takes minutes to lay out.
CARD_BYTES = 1 << 20

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]


def read_manifest(store: Store) -> DistilledManifest:
    """The manifest of the set a store's URL points at. Raises StoreError when there is none, or it is not one."""
    return _parsed(store, store.read(MANIFEST))


def _parsed(store: Store, data: bytes) -> DistilledManifest:
    source = store.url_of(MANIFEST)
    manifest = from_json(DistilledManifest, data, source)
    for name, info in manifest.objects.items():
        # A set is one folder: an object lies under its own name, and nowhere else.
        if info.key != name:
            raise StoreError(f"{source}: object {name!r} points at {info.key!r}: refused")
        info.pieces()
    _check_names(list(manifest.objects), source)
    return manifest


def _check_names(names: list[str], source: str) -> None:
    """Refuse what cannot lie in one folder on every file system. Raises StoreError."""
    taken = {MANIFEST.casefold(), MARKER.casefold()}
    folders = {folder.as_posix().casefold() for name in names for folder in Path(name).parents}
    for name in names:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in name or one_line(name) != name:
            raise StoreError(f"{source}: {name!r} is no key of an object in a folder: refused")
        if max(len(os.fsencode(part)) for part in parts) > 255:
            raise StoreError(f"{source}: the object name {name[:40]!r}... is longer than file systems take: refused")
        if name.casefold() in taken:
            raise StoreError(f"{source}: the object {name!r} has the name of another file of the set: refused")
        taken.add(name.casefold())
    if both := taken & folders:
        raise StoreError(f"{source}: {min(both)!r} is the name of a file of the set and of a folder: refused")


def read_card(store: Store) -> str:
    """The Markdown below the header of a set's README. Raises StoreError when it has none that is whole."""
    info, source = read_manifest(store).objects.get(CARD), store.url_of(CARD)
    if info is None:
        raise StoreError(f"{store.url_of(MANIFEST)}: names no {CARD}: the set has no card to show")
    if info.size > CARD_BYTES:
        raise StoreError(f"{source}: {info.size} bytes are no card ({CARD_BYTES} at most): not shown")
    _check_size(store, info)
    try:
        text = info.verify(store.read(CARD), source).decode()
    except UnicodeDecodeError:
        raise StoreError(f"{source}: not UTF-8: the set has no card to show") from None
    parts = text.split("---\n", 2)
    return parts[2] if len(parts) == 3 and not parts[0] else text


def verify(url: str, progress: Progress = lambda done, total: None) -> DistilledManifest:
    """Check every object of a set by size and sha256. Raises StoreError naming the first that is damaged."""
    store = Store(url)
    manifest = read_manifest(store)
    _check_sizes(store, manifest)
    _each_piece(manifest, lambda info, piece: load_piece(store, info, piece), progress)
    return manifest


def fetch(url: str, folder: Path, progress: Progress = lambda done, total: None) -> DistilledManifest:
    """Copy a set into a new folder. An interrupted fetch leaves `FOLDER.partial`, from which the same call goes on.

    The manifest is read once, and what is fetched is what that one names.

    Raises:
        StoreError: the set is damaged, or was replaced meanwhile; the folder, or FOLDER.partial, holds something else, or
            cannot be written.
    """
    store = Store(url)
    data = store.read(MANIFEST)
    manifest = _parsed(store, data)
    with local_errors(folder):
        if os.path.lexists(folder):
            if (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() == data:
                return verify(str(folder), progress)
            raise StoreError(f"{folder}: exists already and is not this set: name another folder or remove it")
    try:
        _check_sizes(store, manifest)
        with PartialFolder(folder, manifest.objects) as partial:

            def bring(info: ObjectInfo, piece: Piece) -> None:
                if sha256_hex(partial.read(info.key, piece.start, piece.length)) != piece.sha256:
                    partial.write(info.key, piece.start, load_piece(store, info, piece))

            _each_piece(manifest, bring, progress)
            # As it came: the seal is over these bytes.
            partial.finish({MANIFEST: data})
    except StoreError as error:
        # A smaller object of the same name has no such range: a server's refusal, not an answer that can be summed.
        another = isinstance(error, DamagedObject | MissingObject) or "not satisfiable" in str(error)
        if another and _replaced(store, data):
            raise StoreError(f"{store.url}: the set was replaced or removed while it was fetched: fetch it again") from None
        raise
    return manifest


def _replaced(store: Store, data: bytes) -> bool:
    try:
        return store.read(MANIFEST) != data
    except MissingObject:
        return True


def _check_sizes(store: Store, manifest: DistilledManifest) -> None:
    """Before memory or disk is asked for by what a manifest says. Raises DamagedObject, or MissingObject."""
    with ThreadPoolExecutor(PARALLEL_PIECES) as pool:
        list(pool.map(lambda info: _check_size(store, info), manifest.objects.values()))


def _check_size(store: Store, info: ObjectInfo) -> None:
    size = store.size(info.key)
    if size != info.size:
        raise DamagedObject(f"{store.url_of(info.key)}: {size} bytes, its manifest says {info.size}: the object is damaged")


def _each_piece(manifest: DistilledManifest, work: Callable[[ObjectInfo, Piece], object], progress: Progress) -> None:
    """Several pieces at once; a whole set never lies in memory."""
    pieces = [(info, piece) for info in manifest.objects.values() for piece in info.pieces()]
    total, done = sum(piece.length for _, piece in pieces), 0
    progress(0, total)
    with ThreadPoolExecutor(PARALLEL_PIECES) as pool:
        for (_, piece), _ in zip(pieces, pool.map(lambda pair: work(*pair), pieces), strict=True):
            done += piece.length
            progress(done, total)


def published_sets(store: Store) -> dict[str, DistilledManifest | StoreError]:
    """Folder under `distilled/` -> manifest of every set that a store has published, or why it cannot be read."""
    found: dict[str, DistilledManifest | StoreError] = {}
    for key in store.list("distilled"):
        folder, _, name = key.rpartition("/")
        if name == MANIFEST:
            try:
                found[folder] = read_manifest(Store(store.url_of(folder), **store.storage_options))
            except StoreError as error:
                found[folder] = error
    return found
