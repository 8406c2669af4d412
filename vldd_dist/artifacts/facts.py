"""The facts in the manifest of each kind of unit: small results that are read without opening an object."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, Field, create_model

from vldd_dist.recall_metrics import METRICS
from vldd_dist.strict_model import StrictModel

Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Facts(StrictModel):
    """Base of the facts of all kinds."""


_METRICS: Any = create_model("_METRICS", __base__=Facts, **dict.fromkeys(METRICS, (Percent, ...)))  # type: ignore[call-overload]


class Recalls(_METRICS):
    """Recall in percent: image to text, text to image, at 1, 5 and 10, and the mean of the six."""

    if TYPE_CHECKING:
        mean: float


class ShardFacts(Facts):
    name: str = Field(description="the object's name")
    images: Count


class SplitFacts(Facts):
    shards: list[ShardFacts]
    images: Count
    captions: Count
    bad_images: Count = Field(description="images of the source that could not be read and were left out")


class DatasetFacts(Facts):
    splits: dict[str, SplitFacts]
    image_size: Count = Field(description="pixels, square")
    source: str
    licence: str


class ImageWeightsFacts(Facts):
    tensors: Count


class CaptionEmbeddingsFacts(Facts):
    captions: Count
    dim: Count
    encoder: dict[str, Any] = Field(description="encoder, revision, pooling and preprocessing that made the vectors")


class TrajectoryFacts(Facts):
    loss: list[float] = Field(description="mean training loss of each epoch")
    validation: list[Recalls] = Field(description="epoch by epoch, epoch 0 before training")
    epochs: list[Count] = Field(description="epochs whose snapshots are kept")


class FeaturesFacts(Facts):
    # Manifests of earlier versions say "pictures".
    images: Count = Field(validation_alias=AliasChoices("images", "pictures"))
    dim: Count


class CoresetFacts(Facts):
    keys: list[str]
    captions: list[str]


class DifferenceCheck(Facts):
    """The step size that finite differences use, and how well their gradient agreed with a reference."""

    relative_step: float = Field(description="|epsilon v| / |theta|, chosen at the start")
    error: float = Field(description="relative l2 error of the gradient of a whole unroll at the start")
    against: str = Field(description="the reference: exact, or another step size if exact did not fit into memory")
    later: list[tuple[Count, float]] = Field(default=[], description="(outer step, error) of later checks")


class RunFacts(Facts):
    best_step: Count = Field(description="outer step with the best validation recall; its pairs are the result")
    best_validation: Percent
    validation: list[tuple[Count, Percent]] = Field(description="(outer step, mean recall in percent)")
    start: dict[str, Any] = Field(description="provenance of the starting pairs")
    difference_check: DifferenceCheck | None = Field(None, description="where the gradient is finite_difference")


class EvaluationFacts(Facts):
    test: Recalls
    learning_rate: float | None = Field(None, description="of the student, chosen on validation")
    validation: list[tuple[float, Recalls]] = Field(default=[], description="(learning rate, recalls)")


class PublicationFacts(Facts):
    folder: str = Field(description="of the distilled set, in this store")
    digest: str = Field(description="sha256 of its pairs.safetensors; of several files, the sha256 of their sha256s")


FACTS: dict[str, type[Facts]] = {
    "dataset": DatasetFacts,
    "image_weights": ImageWeightsFacts,
    "caption_embeddings": CaptionEmbeddingsFacts,
    "expert": TrajectoryFacts,
    "features": FeaturesFacts,
    "coreset": CoresetFacts,
    "distillation": RunFacts,
    "evaluation": EvaluationFacts,
    "publication": PublicationFacts,
}
