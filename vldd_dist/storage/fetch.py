"""Bringing a distilled set to where it is used: in parallel, verified, resumed, and there only when it is whole."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vldd_dist.errors import StoreError
from vldd_dist.storage.distilled import DistilledManifest
from vldd_dist.storage.manifests import from_json
from vldd_dist.storage.objects import PARALLEL_PIECES, ObjectInfo, Piece, load_piece, sha256_hex
from vldd_dist.storage.store import Store

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]


def read_manifest(store: Store) -> DistilledManifest:
    """The manifest of the set a store's URL points at. Raises StoreError when there is none, or it is not one."""
    manifest = from_json(DistilledManifest, store.read("manifest.json"), store.url_of("manifest.json"))
    for name, info in manifest.objects.items():
        # A set is one folder: an object lies under its own name, and nowhere else.
        if info.key != name:
            raise StoreError(f"{store.url_of('manifest.json')}: object {name!r} points at {info.key!r}: refused")
        store.url_of(name)
    return manifest


def verify(url: str, progress: Progress = lambda done, total: None) -> DistilledManifest:
    """Check every object of a set by size and sha256. Raises StoreError naming the first that is damaged."""
    store = Store(url)
    manifest = read_manifest(store)
    for info in manifest.objects.values():
        if store.size(info.key) != info.size:
            info.verify(store.read(info.key), store.url_of(info.key))
    _each_piece(manifest, lambda info, piece: load_piece(store, info, piece), progress)
    return manifest


def fetch(url: str, folder: Path, progress: Progress = lambda done, total: None) -> DistilledManifest:
    """Copy a set into a new folder. An interrupted fetch leaves `FOLDER.partial`, from which the same call goes on.

    Raises:
        StoreError: the set is damaged, or the folder holds something else.
    """
    store = Store(url)
    manifest = read_manifest(store)
    if folder.exists():
        if (folder / "manifest.json").is_file() and (folder / "manifest.json").read_bytes() == store.read("manifest.json"):
            return verify(str(folder), progress)
        raise StoreError(f"{folder}: exists already and is not this set: name another folder or remove it")
    partial = folder.with_name(folder.name + ".partial")
    with _openable(partial, manifest) as files:

        def bring(info: ObjectInfo, piece: Piece) -> None:
            descriptor = files[info.key]
            if sha256_hex(os.pread(descriptor, piece.length, piece.start)) != piece.sha256:
                _write_all(descriptor, load_piece(store, info, piece), piece.start)

        _each_piece(manifest, bring, progress)
        for descriptor in files.values():
            os.fsync(descriptor)
    _remove_others(partial, manifest)
    # As it came: the seal is over these bytes.
    (partial / "manifest.json").write_bytes(store.read("manifest.json"))
    os.rename(partial, folder)
    return manifest


@contextmanager
def _openable(folder: Path, manifest: DistilledManifest) -> Iterator[dict[str, int]]:
    """A file of the right size for each object, with what an earlier fetch left in it: key -> descriptor."""
    with ExitStack() as stack:
        files = {}
        for info in manifest.objects.values():
            path = folder / info.key
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            stack.callback(os.close, descriptor)
            os.truncate(descriptor, info.size)
            files[info.key] = descriptor
        yield files


def _write_all(descriptor: int, data: bytes, start: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], start + written)


def _remove_others(folder: Path, manifest: DistilledManifest) -> None:
    """Files left by an interrupted fetch of an older version of the set."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in manifest.objects:
            path.unlink()


def _each_piece(manifest: DistilledManifest, work: Callable[[ObjectInfo, Piece], object], progress: Progress) -> None:
    """Several pieces at once; a whole set never lies in memory."""
    pieces = [(info, piece) for info in manifest.objects.values() for piece in info.pieces()]
    total, done = sum(piece.length for _, piece in pieces), 0
    progress(0, total)
    with ThreadPoolExecutor(PARALLEL_PIECES) as pool:
        for (_, piece), _ in zip(pieces, pool.map(lambda pair: work(*pair), pieces), strict=True):
            done += piece.length
            progress(done, total)


def published_sets(store: Store) -> dict[str, DistilledManifest]:
    """Folder under `distilled/` -> manifest, of every set an experiment's store has published."""
    folders = [key.removesuffix("/manifest.json") for key in store.list("distilled") if key.endswith("/manifest.json")]
    return {folder: read_manifest(Store(store.url_of(folder))) for folder in folders}
