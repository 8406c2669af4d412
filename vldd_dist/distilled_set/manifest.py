"""The manifest of a distilled set, and the records it consists of. The set's folder holds:

manifest.json        written last: schema version, recipe, facts, each object's size and sha256
pairs.safetensors    tensors with a row for each pair: images, texts, further rows of the loss, start_images; in several files
                     if it is large (`artifacts.tensor_files.row_files`)
shared.safetensors   learned tensors that all pairs share, if any: logarithms of inner learning rates, parameters of the loss
image_weights.safetensors   the image tower's initial weights, unless they are random or timm's public ones
captions.jsonl       one line per pair: the nearest training caption before and after distillation
and the files that `presentation` adds for people and other tools
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, PositiveFloat

from vldd_dist.artifacts.facts import Count, Recalls
from vldd_dist.artifacts.manifests import Sealed
from vldd_dist.artifacts.tensor_files.row_files import row_files_of
from vldd_dist.config.base import PairCount, Positive, Rate
from vldd_dist.config.sections.model import FROZEN_BACKBONE, without_weights
from vldd_dist.method_names import DISTILLED
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.strict_model import StrictModel

MANIFEST, PAIRS, CAPTIONS = "manifest.json", "pairs", "captions.jsonl"
SHARED = "shared.safetensors"
IMAGE_WEIGHTS = "image_weights.safetensors"
# The fact of a set that was changed after its evaluation (`SetFacts.changed_after_evaluation`).
CHANGED = "changed_after_evaluation"
# Rows that are stored with the pairs but not trained on.
START_IMAGES = "start_images"


class NearestCaptions(StrictModel):
    """A distilled text embedding, shown as the training captions nearest to it before and after distillation."""

    before: str
    after: str
    similarity: float


class Recipe(StrictModel):
    """Everything needed to train on the pairs in the way they were evaluated."""

    image_model: str = Field(description="timm model")
    image_model_args: Annotated[dict[str, Any], AfterValidator(without_weights)]
    image_weights: Literal["timm", "random", "in the set"] = Field(
        description="the initial weights: timm's public ones, random ones, or `image_weights.safetensors` of the set"
    )
    public_weights: dict[str, str] = Field({}, description="name, location and licence of timm's public weights")
    image_train: Literal["full", "lora", "head", "frozen"]
    lora: dict[str, Any] | None = Field(None, description="low-rank adapters: rank, alpha, targets, dropout")
    image_head: Literal["none", "linear", "projection"]
    image_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout probability of a projection head")
    image_size: Positive
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    text_encoder: dict[str, Any] = Field(description="the encoder that defines the space of the text embeddings")
    text_train: Literal["head", "frozen"] = "head"
    text_head: Literal["none", "linear", "projection"]
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout probability of a projection head")
    joint_dim: Positive | None
    loss: dict[str, Any] = Field(description="name and settings of the loss")
    epochs: Positive
    batch_size: PairCount
    learning_rate: Rate
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat

    @property
    def freezes_backbone(self) -> bool:
        """See `ImageTowerSettings.freezes_backbone`."""
        return self.image_train in FROZEN_BACKBONE


class SplitSize(StrictModel):
    """The size of a split of the real data; there may be other facts."""

    model_config = ConfigDict(extra="allow")

    images: Count
    captions: Count


class DataFacts(StrictModel):
    """What a card says about the real data; there may be other facts."""

    model_config = ConfigDict(extra="allow")

    licence: str = "unknown"
    splits: dict[str, SplitSize] = Field({}, description="split -> its size")


class StartFacts(StrictModel):
    """What a card says about the pairs from which the distillation started; there may be other facts."""

    model_config = ConfigDict(extra="allow")

    fixed: list[str] = Field([], description="the parts of a pair that were not learned")


class SetFacts(StrictModel):
    """The facts of a set that commands read; a set may have others."""

    model_config = ConfigDict(extra="allow")

    card: dict[str, Any] = Field({}, description="what the description says for the card: `data.card`")
    data: DataFacts = DataFacts()
    start: StartFacts = StartFacts()
    recalls: dict[str, Annotated[list[Recalls], Field(min_length=1)]] = Field(
        {}, description="method -> the recalls of each student"
    )
    changed_after_evaluation: bool = Field(False, description="whether its recalls are left out, as those of other pairs")
    sizes: dict[str, Count] = Field({}, description="sizes in bytes, by name, of the floating-point tensors for training")

    @property
    def test_split(self) -> SplitSize | None:
        """The split on which `recalls` were measured. None if its size is not recorded."""
        return self.data.splits.get("test")


def _readable_facts(facts: dict[str, Any]) -> dict[str, Any]:
    SetFacts.model_validate(facts)
    return facts


class DistilledManifest(Sealed):
    """The commit of a distilled set."""

    # Version 3 referred to the unit that made the image weights, which exists only in its own store.
    schema_version: Literal[4] = 4
    kind: Literal["distilled_set"] = "distilled_set"
    pairs: Positive
    learned: dict[str, float] = Field(description="learned numbers other than the pairs, for display")
    recipe: Recipe
    facts: Annotated[dict[str, Any], AfterValidator(_readable_facts)]
    objects: dict[str, ObjectInfo]

    def mean_recall(self) -> float | None:
        """The mean of the six recalls over all students trained on the set, percent. None if it was not evaluated."""
        runs = SetFacts.model_validate(self.facts).recalls.get(DISTILLED, [])
        return sum(run.mean for run in runs) / len(runs) if runs else None

    def changed_after_evaluation(self) -> bool:
        """Whether the set was evaluated, and changed since, so that its recalls are not known."""
        return SetFacts.model_validate(self.facts).changed_after_evaluation

    def test_images(self) -> int | None:
        """Number of the images on which recall was measured. None if it is not recorded."""
        split = SetFacts.model_validate(self.facts).test_split
        return None if split is None else split.images

    def digest(self, source: str) -> str:
        """The same as `DistilledSet.digest`. Raises StoreError if objects of the pairs are missing."""
        return digest_of([self.objects[name].sha256 for name in row_files_of(PAIRS, self.objects, source)])


def digest_of(sha256s: Sequence[str]) -> str:
    """One digest of the files of the pairs: the sha256 of a single file, or the sha256 of all files' sha256s, one per line."""
    return sha256s[0] if len(sha256s) == 1 else sha256("".join(f"{digest}\n" for digest in sha256s).encode()).hexdigest()
