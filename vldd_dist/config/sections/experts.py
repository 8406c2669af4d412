"""experts: training on all real pairs."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vldd_dist.config.base import (
    HOW_TO_RUN,
    PRECISION,
    AnyPlugin,
    NonNegative,
    Positive,
    Precision,
    Rate,
    Resources,
    Section,
    Sharding,
    choose,
)
from vldd_dist.plugins import LOSSES

Captions = Literal["one", "all"]


def _loss(chosen: Any) -> Any:
    return None if chosen is None else choose(LOSSES, chosen, default="infonce")


class AugmentSettings(Section):
    """Random changes of a real image while an expert trains."""

    crop_scale: tuple[float, float] = Field(
        (0.5, 1.0), description="Random resized crop: smallest and largest area kept, as fractions."
    )
    flip: bool = Field(True, description="Mirror left-right with probability 1/2 (wrong where captions say left or right).")
    randaugment_ops: NonNegative = Field(2, description="RandAugment operations an image; 0 switches them off.")
    randaugment_magnitude: Annotated[int, Field(ge=0, le=10)] = Field(7, description="RandAugment magnitude, 0..10.")


class ExpertSettings(Section):
    """Training of one expert on all real pairs."""

    epochs: Positive = Field(10, description="Epochs; a snapshot is kept after each one that matters.")
    captions: Captions = Field(
        "one",
        description="one: an epoch shows each image once, with one of its captions drawn anew; all: each caption once, with its image, as published (five times as many steps where an image has five).",
    )
    batch_size: Positive = Field(128, description="Pairs a step.")
    lr_image: Rate = Field(0.1, description="SGD learning rate of the image tower.")
    lr_text: Rate = Field(0.1, description="SGD learning rate of the text tower.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Momentum of the experts' sgd.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Weight decay of the experts' sgd.")
    augment: AugmentSettings | None = Field(
        default_factory=AugmentSettings, description="How training images are augmented; none: not at all."
    )
    readers: Annotated[Positive, HOW_TO_RUN] = Field(
        1, description="Shards read at once; at most the number of training shards."
    )
    cache_mib: Annotated[NonNegative, HOW_TO_RUN] = Field(
        0,
        description="Decoded images kept on each node, for all its experts and epochs, MiB; used only when the whole split fits.",
    )
    precision: Precision = Field("fp32", description=PRECISION)
    workers: Annotated[Positive, HOW_TO_RUN] = Field(
        1, description="Ranks that train one expert together; each asks for `resources`."
    )
    sharding: Annotated[Sharding, HOW_TO_RUN] = Field(
        "none",
        description="How an expert lies on its ranks. none: whole on each; zero1, zero2, zero3: by DeepSpeed, its momentum in shards, its gradients too, its parameters too; fsdp: all in shards by torch.",
    )
    rank_timeout_seconds: Annotated[Positive, HOW_TO_RUN] = Field(
        600, description="A rank that does not answer the others for so long is given up, and the epoch starts again."
    )
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)


class ExpertsSettings(ExpertSettings):
    """All experts of an experiment."""

    count: Positive = Field(20, description="Number of experts.")
    loss: Annotated[AnyPlugin | None, BeforeValidator(_loss)] = Field(
        None, description="The loss of experts where it is another than that of students; none: model.loss."
    )
    keep: Literal["reachable", "all"] = Field(
        "reachable",
        description="Snapshots kept: the starts that distillation can draw, their targets and the last epoch's, or all.",
    )
