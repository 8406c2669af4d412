"""Distilled sets: the published artefact, a folder that stands on its own.

    manifest.json        written last: schema version, recipe, facts, each object's size and sha256
    pairs.safetensors    images, texts[, similarity], and where the pictures began; of many pairs in parts (`artifacts.parts`)
    captions.jsonl       for each pair the nearest training caption before and after
    and for other eyes   what `presentation` makes of them

Loading needs torch, safetensors and fsspec: no training library, none for pictures.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.facts import Count, Recalls
from vldd_dist.artifacts.manifests import Sealed, from_json, to_json
from vldd_dist.artifacts.parts import joined, part_name, parts_of
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store

MANIFEST, PAIRS, CAPTIONS = "manifest.json", "pairs", "captions.jsonl"
# The pairs' objects are no larger, unless one pair is.
PART_BYTES = 1 << 30


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NearestCaptions(Part):
    """A distilled text shown as the training caption nearest to it, before distillation and after, and the cosine after."""

    before: str
    after: str
    similarity: float


class Recipe(Part):
    """Everything needed to train on the pairs as they were judged."""

    image_model: str = Field(description="timm model")
    image_model_args: dict[str, Any]
    image_weights: str = Field(description="where the starting weights came from: timm, random, or the unit that made them")
    image_train: str
    image_head: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    text_encoder: dict[str, Any] = Field(description="what the text embeddings are embeddings of")
    text_head: str
    joint_dim: int | None
    loss: str
    temperature: float
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float


class SetFacts(BaseModel):
    """What the commands read of a set's facts; there may be more."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    recalls: dict[str, list[Recalls]] = {}


def _readable_facts(facts: dict[str, Any]) -> dict[str, Any]:
    SetFacts.model_validate(facts)
    return facts


class DistilledManifest(Sealed):
    """The commit of a distilled set."""

    schema_version: Literal[2] = 2
    kind: Literal["distilled_set"] = "distilled_set"
    pairs: Count
    inner_rates: dict[str, float]
    recipe: Recipe
    facts: Annotated[dict[str, Any], AfterValidator(_readable_facts)]
    objects: dict[str, ObjectInfo]

    def mean_recall(self) -> float | None:
        """Of the students trained on the set, the mean of the six recalls in percent; none if it was not judged."""
        runs = SetFacts.model_validate(self.facts).recalls.get("distilled", [])
        return sum(run.mean for run in runs) / len(runs) if runs else None

    def digest(self, source: str) -> str:
        """As `DistilledSet.digest`. Raises StoreError when the objects of the pairs are not all there."""
        return _digest([self.objects[name].sha256 for name in parts_of(PAIRS, self.objects, source)])


def _digest(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else sha256("".join(f"{digest}\n" for digest in parts).encode()).hexdigest()


@dataclass
class DistilledSet:
    """Synthetic pairs and everything needed to train on them.

    Attributes:
        images: (M, 3, H, W) float32, normalised with the recipe's mean and std.
        texts: (M, D) float32, in the output space of the recipe's text encoder.
        similarity: (M, M) float32 targets, or none for the identity.
        inner_rates: learned inner learning rates, "image" and "text".
        start_images: (M, 3, H, W) uint8, the pictures before distillation, or none.
        captions: for each pair.
        facts: recalls (this set's and its coresets'), data and its licence, provenance of the starting pairs.
    """

    images: Tensor
    texts: Tensor
    inner_rates: dict[str, float]
    recipe: Recipe
    captions: list[NearestCaptions]
    similarity: Tensor | None = None
    start_images: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def _encoded_pairs(self) -> dict[str, bytes]:
        optional = {"similarity": self.similarity, "start_images": self.start_images}
        given = {name: tensor for name, tensor in optional.items() if tensor is not None}
        rows = {"images": self.images, "texts": self.texts, **given}
        size = max(1, PART_BYTES // sum(tensor[:1].nbytes for tensor in rows.values()))
        starts = range(0, len(self), size)
        return {
            part_name(PAIRS, part, len(starts)): tensors.encode({name: tensor[at : at + size] for name, tensor in rows.items()})
            for part, at in enumerate(starts)
        }

    @property
    def digest(self) -> str:
        """sha256 of pairs.safetensors, of several parts that of their sha256s, one a line: equal for equal pairs, whenever and
        wherever they were made."""
        return _digest([ObjectInfo.of(name, data).sha256 for name, data in self._encoded_pairs.items()])

    def pixels(self) -> Tensor:
        """(M, 3, H, W) uint8, clipped to what a screen can show."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.recipe.mean, self.recipe.std))
        return ((self.images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)

    def as_dataset(self) -> "PairDataset":
        """For a DataLoader: {"image": (3, H, W), "text": (D,)} each."""
        return PairDataset(self.images, self.texts)

    def files(self) -> dict[str, bytes]:
        """What the set's folder holds: name -> content, the manifest last."""
        # Pictures and cards take libraries that loading does not.
        from vldd_dist.distilled_set.presentation import present

        captions = "".join(json.dumps(caption.model_dump(), ensure_ascii=False) + "\n" for caption in self.captions)
        data = {**self._encoded_pairs, CAPTIONS: captions.encode()}
        data |= present(self, data)
        manifest = DistilledManifest(
            pairs=len(self),
            inner_rates=self.inner_rates,
            recipe=self.recipe,
            facts=self.facts,
            objects={name: ObjectInfo.of(name, content) for name, content in data.items()},
        )
        return {**data, MANIFEST: to_json(manifest)}

    def save(self, url: str) -> None:
        """Write the set to a folder URL, manifest last; saving the same set again changes nothing.

        Raises:
            StoreError: another set is there already.
        """
        store = Store(url)
        store.require_writable()
        data = self.files()
        encoded = data.pop(MANIFEST)
        if store.exists("manifest.json"):
            if store.read("manifest.json") != encoded:
                raise StoreError(f"{store.url}: another distilled set is there: choose another place or remove it")
            return
        for name, content in data.items():
            store.write(name, content)
        if not store.create("manifest.json", encoded) and store.read("manifest.json") != encoded:
            raise StoreError(f"{store.url}: another distilled set was written there at the same time: choose another place")

    @classmethod
    def load(cls, url: str) -> Self:
        """Read and verify what is trained on of a distilled set.

        Raises:
            StoreError: no set there, or an object is not what the manifest says; the object is named.
        """
        store = Store(url)
        manifest = from_json(DistilledManifest, store.read("manifest.json"), store.url_of("manifest.json"))
        parts = parts_of(PAIRS, manifest.objects, store.url_of("manifest.json"))
        pairs = joined((_decoded(store, part, manifest.objects) for part in parts), store.url_of(PAIRS))
        _check_shapes(pairs, manifest.pairs, store.url_of(parts[0]))
        lines = _verified(store, CAPTIONS, manifest.objects)
        captions = _decode_captions(lines, manifest.pairs, store.url_of(CAPTIONS))
        return cls(
            images=pairs["images"],
            texts=pairs["texts"],
            inner_rates=manifest.inner_rates,
            recipe=manifest.recipe,
            captions=captions,
            similarity=pairs.get("similarity"),
            start_images=pairs.get("start_images"),
            facts=manifest.facts,
        )


def _verified(store: Store, name: str, objects: Mapping[str, ObjectInfo]) -> bytes:
    # The fixed names are read, whatever keys a manifest claims: it cannot point elsewhere.
    if name not in objects:
        raise StoreError(f"{store.url_of('manifest.json')}: names no {name}: this is no whole distilled set")
    return objects[name].verify(store.read(name), store.url_of(name))


def _decoded(store: Store, name: str, objects: Mapping[str, ObjectInfo]) -> dict[str, Tensor]:
    return tensors.decode(_verified(store, name, objects), store.url_of(name))


def _check_shapes(named: Mapping[str, Tensor], count: int, source: str) -> None:
    """A set may come from anyone: equal checksums say that it is whole, not that it fits together."""
    images, texts = named.get("images"), named.get("texts")
    if images is None or images.ndim != 4 or images.shape[:2] != (count, 3) or images.dtype != torch.float32:
        raise StoreError(f"{source}: 'images' must be ({count}, 3, H, W) float32: this is no distilled set of this package")
    if texts is None or texts.ndim != 2 or len(texts) != count or texts.dtype != torch.float32:
        raise StoreError(f"{source}: 'texts' must be ({count}, D) float32: this is no distilled set of this package")
    for name, shape in (("similarity", (count, count)), ("start_images", images.shape)):
        if name in named and named[name].shape != shape:
            raise StoreError(f"{source}: {name!r} must have the shape {tuple(shape)}: this is no distilled set of this package")


def _decode_captions(data: bytes, count: int, source: str) -> list[NearestCaptions]:
    try:
        captions = [NearestCaptions.model_validate_json(line) for line in data.decode().split("\n")[:-1]]
    except ValueError:
        raise StoreError(f"{source}: not one caption record a line: this is no distilled set of this package") from None
    if len(captions) != count:
        raise StoreError(f"{source}: {len(captions)} lines for {count} pairs: this is no distilled set of this package")
    return captions


class PairDataset(Dataset[dict[str, Tensor]]):
    """Synthetic pairs for a DataLoader."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self.images, self.texts = images, texts

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "text": self.texts[index]}
