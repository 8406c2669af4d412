"""Copying a distilled set to a local folder in parallel, with verification and resumption. The folder appears when it is
complete."""

import os
from pathlib import Path

from vldd_dist.distilled_set.manifest import MANIFEST, DistilledManifest
from vldd_dist.distilled_set.reading import ByteCallback, check_sizes, for_each_block, manifest_bytes, parse_manifest, verify
from vldd_dist.distilled_set.transfer.partial_folder import PartialFolder, local_errors
from vldd_dist.errors import StoreError
from vldd_dist.store.location import Location
from vldd_dist.store.objects import Block, DamagedObject, ObjectInfo, load_block, sha256_hex
from vldd_dist.store.store import MissingObject, Store


def fetch(url: Location, folder: Path, progress: ByteCallback = lambda done, total: None) -> DistilledManifest:
    """Copy a set into a new folder. An interrupted fetch leaves `FOLDER.partial`, and the same call resumes from it.

    The manifest is read once; the objects that it lists are fetched.

    Raises:
        StoreError: the set is damaged, or was replaced in the meantime; the folder or FOLDER.partial holds something else, or
            cannot be written.
    """
    store = Store(url)
    data = manifest_bytes(store)
    manifest = parse_manifest(store, data)
    with local_errors(folder):
        if os.path.lexists(folder):
            if (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() == data:
                return verify(str(folder), progress)
            raise StoreError(f"{folder}: exists already and is not this set: name another folder or remove it")
    try:
        check_sizes(store, manifest)
        with PartialFolder(folder, manifest.objects) as partial:

            def copy_block(info: ObjectInfo, block: Block) -> None:
                if sha256_hex(partial.read(info.key, block.start, block.length)) != block.sha256:
                    partial.write(info.key, block.start, load_block(store, info, block))

            for_each_block(manifest, copy_block, progress)
            # The bytes that were read are written, because the seal covers them.
            partial.finish({MANIFEST: data})
    except StoreError as error:
        # If an object was replaced by a smaller one, the server refuses the range ("not satisfiable").
        differs = isinstance(error, DamagedObject | MissingObject) or "not satisfiable" in str(error)
        if differs and _replaced(store, data):
            raise StoreError(f"{store.url}: the set was replaced or removed while it was fetched: fetch it again") from None
        raise
    return manifest


def _replaced(store: Store, data: bytes) -> bool:
    """Whether the manifest is no longer `data`."""
    try:
        return manifest_bytes(store) != data
    except MissingObject:
        return True
