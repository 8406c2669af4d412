"""Writing a distilled set: its pairs, its presentation, and the manifest over both."""

import json
from dataclasses import replace

from vldd_dist.artifacts.manifests import to_json
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import CAPTIONS, IMAGE_WEIGHTS, MANIFEST, SHARED, DistilledManifest
from vldd_dist.distilled_set.publishing.folders import other_file, write_folder
from vldd_dist.distilled_set.publishing.presentation import present
from vldd_dist.errors import StoreError
from vldd_dist.store.location import Location
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store


def files_of(distilled: DistilledSet) -> dict[str, bytes]:
    """The files of the set's folder: name -> content, the manifest last. The recalls of a set that was changed after its
    evaluation are left out (`DistilledSet.facts_to_write`)."""
    distilled = replace(distilled, facts=distilled.facts_to_write())
    captions = "".join(json.dumps(caption.model_dump(), ensure_ascii=False) + "\n" for caption in distilled.captions)
    files = {**distilled.encoded_pairs(), CAPTIONS: captions.encode()}
    if distilled.shared:
        files[SHARED] = tensors.encode(distilled.shared)
    if distilled.image_weights is not None:
        files[IMAGE_WEIGHTS] = tensors.encode(distilled.image_weights)
    files |= present(distilled, files)
    manifest = DistilledManifest(
        pairs=len(distilled),
        learned=distilled.learned,
        recipe=distilled.recipe,
        facts={**distilled.facts, "sizes": distilled.sizes},
        objects={name: ObjectInfo.of(name, content) for name, content in files.items()},
    )
    return {**files, MANIFEST: to_json(manifest)}


def save(distilled: DistilledSet, url: Location) -> None:
    """Write a set to a folder URL, the manifest last. Saving the same set again changes nothing. A set that was
    loaded and changed is written without its recalls, and its card says that it was changed after its evaluation.

    Raises:
        StoreError: the folder already has another set, or another file with the name of one of the set's; or `load_distilled`
            would refuse the set.
    """
    store = Store(url)
    store.require_writable()
    distilled.check(store.url)
    files = files_of(distilled)
    manifest = files.pop(MANIFEST)
    if store.exists(MANIFEST):
        if store.read(MANIFEST) != manifest:
            raise StoreError(f"{store.url}: another distilled set is there: choose another folder or remove it")
        return
    if other := other_file(store, files, files.__getitem__):
        raise StoreError(f"{store.url_of(other)}: another file is there: choose a folder without files")
    if not write_folder(store, files.items(), manifest, replace=False):
        raise StoreError(f"{store.url}: another distilled set was written there at the same time: choose another folder")
