"""A distilled set in memory: loading and verifying it, and using it as a data set.

It needs torch, numpy, safetensors, fsspec, pydantic and tenacity: no training library and no image library.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vldd_dist.artifacts.manifests import from_json
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.row_files import concatenated, row_file_name, row_files_of
from vldd_dist.config.base import choose
from vldd_dist.distilled_set.manifest import (
    CAPTIONS,
    CHANGED,
    IMAGE_WEIGHTS,
    MANIFEST,
    PAIRS,
    SHARED,
    START_IMAGES,
    DistilledManifest,
    NearestCaptions,
    Recipe,
    digest_of,
)
from vldd_dist.distilled_set.reading import manifest_bytes
from vldd_dist.errors import StoreError
from vldd_dist.plugins import LOSSES
from vldd_dist.store.location import Location
from vldd_dist.store.objects import ObjectInfo, sha256_hex
from vldd_dist.store.store import Store
from vldd_dist.training_loop import PHASE, phases_of

# A file of pairs is not larger than this, unless it has only one pair.
LARGEST_FILE_BYTES = 1 << 30
# In the facts of a loaded set, beside its recalls: the `content_digest` with which they were measured. It is not written.
RECALLS_OF = "recalls_of"
# The end of errors about a folder with a valid manifest and wrong content.
NOT_A_SET = "this is not a distilled set of this package"


@dataclass
class DistilledSet:
    """Synthetic pairs and everything needed to train on them. `write.save` writes a set.

    Attributes:
        rows: tensors with a row for each pair: `images` (M, 3, H, W) float32, normalised with the recipe's mean and std;
            `texts` (M, D) float32, in the output space of the recipe's text encoder; and further rows that the loss needs.
        captions: the nearest captions of each pair.
        shared: learned tensors that all pairs share, by name: those of the loss, which students use, and those of the
            objective, which they do not.
        learned: values of the shared tensors for display, for example the inner learning rates (not their logarithms).
        image_weights: the timm state dict of the recipe's image tower before training, if it is part of the set.
        start_images: (M, 3, H, W) uint8, the images before distillation, or None.
        facts: recalls (of this set and of the coresets), the data and their licence, provenance of the initial pairs. Those of
            a loaded set also have `recalls_of`, a digest of what was evaluated: remove it if you evaluate a changed set and set
            its `recalls`.
    """

    rows: dict[str, Tensor]
    recipe: Recipe
    captions: list[NearestCaptions]
    shared: dict[str, Tensor] = field(default_factory=dict)
    learned: dict[str, float] = field(default_factory=dict)
    image_weights: dict[str, Tensor] | None = None
    start_images: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def images(self) -> Tensor:
        return self.rows["images"]

    @property
    def texts(self) -> Tensor:
        return self.rows["texts"]

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes in bytes, by name, of the floating-point tensors that a student is trained on. Integers such as a pair's
        phase are not counted.

        Raises:
            StoreError: as `loss`.
        """
        named = self.rows | self.loss.own_shared(self.shared)
        return {name: tensor.nbytes for name, tensor in named.items() if tensor.is_floating_point()}

    @property
    def loss(self) -> Any:
        """The loss of the recipe: loss(image features, text features, the batch, self.shared).

        Raises:
            StoreError: this installation has no such loss, or another revision of it.
        """
        try:
            loss = choose(LOSSES, self.recipe.loss)
        except ValueError as error:
            raise StoreError(f"the loss of the set is not known here: {error}") from None
        # A plug-in's revision is raised when its code computes something else.
        field = type(loss).model_fields.get("revision")
        if field is not None and loss.revision != field.default:
            raise StoreError(
                f"the set was learned with revision {loss.revision} of the loss {loss.name}, and revision {field.default} is "
                "installed: install the version of its package that the set was learned with"
            )
        return loss

    def encoded_pairs(self) -> dict[str, bytes]:
        """The files of the pairs: name -> bytes."""
        named = self.rows | ({} if self.start_images is None else {START_IMAGES: self.start_images})
        rows = max(1, LARGEST_FILE_BYTES // sum(tensor[:1].nbytes for tensor in named.values()))
        starts = range(0, len(self), rows)
        return {
            row_file_name(PAIRS, index, len(starts)): tensors.encode(
                {name: tensor[start : start + rows] for name, tensor in named.items()}
            )
            for index, start in enumerate(starts)
        }

    @property
    def digest(self) -> str:
        """The sha256 of pairs.safetensors; if there are several files, the sha256 of their sha256s, one per line. Equal pairs
        have equal digests, whenever and wherever they were made."""
        return digest_of([sha256_hex(data) for data in self.encoded_pairs().values()])

    def content_digest(self) -> str:
        """A sha256 of what a student is trained on: the recipe, the rows, the loss's shared tensors, the image tower's weights.

        Raises:
            StoreError: as `loss`.
        """
        digest = sha256(self.recipe.model_dump_json().encode())
        for kind, named in enumerate((self.rows, self.loss.own_shared(self.shared), self.image_weights or {})):
            for name, tensor in sorted(named.items()):
                digest.update(f"{kind} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def facts_to_write(self) -> dict[str, Any]:
        """The facts of the set as it is now. If it was changed after its evaluation, they say so, and have no recalls."""
        facts = {name: fact for name, fact in self.facts.items() if name != RECALLS_OF}
        if self.facts.get(RECALLS_OF) not in (None, self.content_digest()):
            measured = ("recalls", "best_validation")
            return {name: fact for name, fact in facts.items() if name not in measured} | {CHANGED: True}
        # Of a changed set that its user has evaluated again.
        return {name: fact for name, fact in facts.items() if name != CHANGED} if facts.get("recalls") else facts

    def pixels(self, chosen: slice = slice(None)) -> Tensor:
        """The images as pixels (M, 3, H, W) uint8, clipped to 0..255; those of the chosen pairs."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.recipe.mean, self.recipe.std))
        return ((self.images[chosen] * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)

    def as_dataset(self) -> "PairDataset":
        """The pairs for a DataLoader; each item is {"images": (3, H, W), "texts": (D,), ...}.

        Raises:
            ValueError: they were learned in several phases, and a batch must not have pairs of two of them.
        """
        if len(datasets := self.as_datasets()) > 1:
            raise ValueError(
                f"the pairs were learned in {len(datasets)} phases: train on each of `as_datasets()`, in this order"
            )
        return datasets[0]

    def as_datasets(self) -> list["PairDataset"]:
        """One data set for each phase of the distillation, to be trained on in this order, each for all epochs; without phases,
        a single one."""
        if PHASE not in self.rows:
            return [PairDataset(self.rows)]
        phases = phases_of(self.rows[PHASE], len(self))
        return [PairDataset({name: rows[numbers] for name, rows in self.rows.items()}) for numbers in phases]

    def similarity(self) -> Tensor | None:
        """The learned similarity (M, M) of images (rows) and texts (columns), which is 0 between pairs of different phases,
        because no batch has both; None if the loss has none."""
        similarity = self.loss.similarity_of(self.rows)
        if similarity is None or PHASE not in self.rows:
            return similarity
        phase = self.rows[PHASE]
        return similarity.where(phase[:, None] == phase, 0)

    @classmethod
    def load(cls, url: Location, most: int | None = None) -> Self:
        """Read and verify the objects of a set that are needed for training.

        Args:
            most: the largest number of pairs to read, for display: only the first are kept, and files without them are not
                read. Whether a loss can be computed with them is not checked. None: all.

        Raises:
            StoreError: there is no set at the URL, an object differs from the manifest, or the set cannot be trained on because
                its loss is not known or does not match its tensors. The error names the object.
        """
        store = Store(url)
        manifest = from_json(DistilledManifest, manifest_bytes(store), store.url_of(MANIFEST))
        files = row_files_of(PAIRS, manifest.objects, store.url_of(MANIFEST))
        count = manifest.pairs if most is None else min(most, manifest.pairs)
        parts = (_decoded(store, name, manifest.objects) for name in files)
        pairs = concatenated(parts if most is None else _first_rows(parts, most), store.url_of(PAIRS))
        _check_shapes(pairs, count, store.url_of(files[0]))
        lines = _verified(store, CAPTIONS, manifest.objects)
        captions = _decode_captions(lines, manifest.pairs, store.url_of(CAPTIONS))[:count]
        start_images = pairs.pop(START_IMAGES, None)
        loaded = cls(
            rows=pairs,
            recipe=manifest.recipe,
            captions=captions,
            shared=_decoded(store, SHARED, manifest.objects) if SHARED in manifest.objects else {},
            learned=manifest.learned,
            image_weights=_decoded(store, IMAGE_WEIGHTS, manifest.objects)
            if manifest.recipe.image_weights == "in the set"
            else None,
            start_images=start_images,
            facts=manifest.facts,
        )
        _check_finite(loaded.shared, store.url_of(SHARED))
        if most is None:
            loaded._check_loss(store.url_of(files[0]), store.url_of(SHARED))
        if loaded.facts.get("recalls"):
            # A set that was read in part has no recalls of its own.
            loaded.facts = loaded.facts | {RECALLS_OF: loaded.content_digest() if most is None else ""}
        return loaded

    def check(self, source: str) -> None:
        """Check what `load` checks of a set's content, before it is written to `source`.

        Raises:
            StoreError: a tensor has another shape or type, or values that are not finite, the captions have another number,
                the image tower's weights are missing, or the loss does not match the tensors.
        """
        start_images = {} if self.start_images is None else {START_IMAGES: self.start_images}
        _check_shapes(self.rows | start_images, len(self), source)
        _check_finite(self.shared, source)
        if len(self.captions) != len(self):
            raise StoreError(f"{source}: {len(self.captions)} captions for {len(self)} pairs: {NOT_A_SET}")
        if self.image_weights is None and self.recipe.image_weights == "in the set":
            raise StoreError(f"{source}: the recipe says that the image tower's weights are in the set, and it has none")
        self._check_loss(source, source)

    def _check_loss(self, of_rows: str, of_shared: str) -> None:
        """Raises StoreError if the loss cannot be computed with the tensors. `of_rows`, `of_shared`: their URLs, for errors."""
        loss = self.loss
        for source, check in (
            (of_rows, lambda: loss.check_rows(self.rows, len(self))),
            (of_shared, lambda: loss.check_shared(self.shared)),
        ):
            try:
                check()
            except ValueError as error:
                raise StoreError(f"{source}: {error}: {NOT_A_SET}") from None


def _verified(store: Store, name: str, objects: Mapping[str, ObjectInfo]) -> bytes:
    # The object is read by its name and not by the key in the manifest, so that a manifest cannot point outside its folder.
    if name not in objects:
        raise StoreError(f"{store.url_of(MANIFEST)}: lists no {name}, so the set is incomplete: fetch it or make it again")
    return objects[name].verify(store.read(name, objects[name].size), store.url_of(name))


def _decoded(store: Store, name: str, objects: Mapping[str, ObjectInfo]) -> dict[str, Tensor]:
    return tensors.decode(_verified(store, name, objects), store.url_of(name))


def _first_rows(parts: Iterable[dict[str, Tensor]], most: int) -> Iterator[dict[str, Tensor]]:
    """The first rows, at least one part. Parts after them are not read."""
    for part in parts:
        yield {name: tensor[:most] if tensor.ndim else tensor for name, tensor in part.items()}
        most -= max((len(tensor) for tensor in part.values() if tensor.ndim), default=0)
        if most <= 0:
            return


def _check_shapes(named: Mapping[str, Tensor], count: int, source: str) -> None:
    """Raises StoreError for wrong shapes and types, which a set from another author may have even if its checksums match."""
    images, texts = named.get("images"), named.get("texts")
    if images is None or images.ndim != 4 or images.shape[:2] != (count, 3) or images.dtype != torch.float32:
        raise StoreError(f"{source}: 'images' must be ({count}, 3, H, W) float32: {NOT_A_SET}")
    if texts is None or texts.ndim != 2 or len(texts) != count or texts.dtype != torch.float32:
        raise StoreError(f"{source}: 'texts' must be ({count}, D) float32: {NOT_A_SET}")
    for name, tensor in named.items():
        if tensor.ndim == 0 or len(tensor) != count:
            raise StoreError(f"{source}: {name!r} must have {count} rows: {NOT_A_SET}")
    _check_finite(named, source)
    if PHASE in named and (named[PHASE].shape != (count,) or named[PHASE].dtype != torch.int64):
        raise StoreError(f"{source}: {PHASE!r} must be ({count},) int64: {NOT_A_SET}")
    if START_IMAGES in named and named[START_IMAGES].shape != images.shape:
        raise StoreError(f"{source}: {START_IMAGES!r} must have the shape {tuple(images.shape)}: {NOT_A_SET}")


def _check_finite(named: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in named.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StoreError(f"{source}: {name!r} has values that are infinite or no numbers: the set cannot be trained on")


def _decode_captions(data: bytes, count: int, source: str) -> list[NearestCaptions]:
    try:
        captions = [NearestCaptions.model_validate_json(line) for line in data.decode().split("\n")[:-1]]
    except ValueError:
        raise StoreError(f"{source}: not one caption record per line: {NOT_A_SET}") from None
    if len(captions) != count:
        raise StoreError(f"{source}: {len(captions)} lines for {count} pairs: {NOT_A_SET}")
    return captions


class PairDataset(Dataset[dict[str, Tensor]]):
    """Synthetic pairs for a DataLoader."""

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows["images"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: rows[index] for name, rows in self.rows.items()}
