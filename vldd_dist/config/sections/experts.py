"""experts: training on all real pairs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat

from vldd_dist.config.base import (
    HOW_TO_RUN,
    PRECISION,
    AnyPlugin,
    NonNegative,
    PairCount,
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


def _two_fractions(scale: tuple[float, float]) -> tuple[float, float]:
    smallest, largest = scale
    if not 0 < smallest <= largest <= 1:
        raise ValueError("give two fractions of the area, the smaller first, for example [0.5, 1.0]")
    return scale


class AugmentSettings(Section):
    """Random augmentation of real images while an expert is trained."""

    crop_scale: Annotated[tuple[float, float], AfterValidator(_two_fractions)] = Field(
        (0.5, 1.0), description="Random resized crop: smallest and largest fraction of the area that is kept."
    )
    flip: bool = Field(
        True, description="Mirror images horizontally with probability 1/2; switch it off if captions say left or right."
    )
    randaugment_ops: NonNegative = Field(2, description="RandAugment operations per image; 0 switches them off.")
    randaugment_magnitude: Annotated[int, Field(ge=0, le=10)] = Field(7, description="RandAugment magnitude, 0..10.")

    def without_effect(self) -> frozenset[str]:
        return frozenset() if self.randaugment_ops else frozenset({"randaugment_magnitude"})


class ExpertSettings(Section):
    """Training of one expert on all real pairs."""

    epochs: Positive = Field(10, description="Epochs of training; `keep` says after which of them a snapshot is kept.")
    captions: Captions = Field(
        "one",
        description="one: an epoch shows each image once, with one of its captions drawn anew in each epoch; all: an epoch shows "
        "each caption once, with its image, as in the published protocol (five times as many steps if an image has five captions).",
    )
    batch_size: PairCount = Field(128, description="Pairs in a step.")
    lr_image: Rate = Field(0.1, description="SGD learning rate of the image tower.")
    lr_text: Rate = Field(0.1, description="SGD learning rate of the text tower.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Momentum of the experts' SGD.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Weight decay of the experts' SGD.")
    augment: AugmentSettings | None = Field(
        default_factory=AugmentSettings,
        description="Augmentation of training images; null: no augmentation. With a frozen backbone, experts encode augmented images "
        "in every epoch; with null they train on features that are computed once.",
    )
    readers: Annotated[Positive, HOW_TO_RUN] = Field(
        1, description="Shards that are read in parallel; at most the number of training shards."
    )
    cache_mib: Annotated[NonNegative, HOW_TO_RUN] = Field(
        0,
        description="Size in MiB of each node's cache of decoded images, shared by its experts and epochs. It is used only if the "
        "whole split fits.",
    )
    precision: Precision = Field("fp32", description=PRECISION)
    workers: Annotated[Positive, HOW_TO_RUN] = Field(
        1, description="Ranks that train one expert together; each requests `resources`."
    )
    sharding: Annotated[Sharding, HOW_TO_RUN] = Field(
        "none",
        description="How an expert is distributed over its ranks. none: replicated; zero1: DeepSpeed shards its momentum; zero2: its "
        "gradients as well; zero3: its parameters as well; fsdp: torch's FSDP2 shards all three.",
    )
    rank_timeout_seconds: Annotated[Positive, HOW_TO_RUN] = Field(
        600, description="A rank that does not answer the others for this long is given up, and the epoch starts again."
    )
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)

    @property
    def mirrors(self) -> bool:
        """Whether experts are trained on mirrored images too."""
        return self.augment is not None and self.augment.flip


class ExpertsSection(ExpertSettings):
    """All experts of an experiment."""

    count: Positive = Field(20, description="Number of experts.")
    loss: Annotated[AnyPlugin | None, BeforeValidator(_loss)] = Field(
        None, description="Training loss of experts, if it differs from that of students; null: model.loss."
    )
    keep: Literal["reachable", "all"] = Field(
        "reachable",
        description="Which snapshots are kept. reachable: the starts that distillation can draw, their targets, and the last "
        "epoch's; all: every epoch's.",
    )
