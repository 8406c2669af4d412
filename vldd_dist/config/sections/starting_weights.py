"""pretrain, embeddings: what is computed once before the experts."""

from typing import Annotated

from pydantic import Field

from vldd_dist.config.base import HOW_TO_RUN, Positive, Rate, Resources, Section


class PretrainSettings(Section):
    """Attribute classification on a disjoint set of built-in scenes (image.weights: attributes)."""

    images: Positive = Field(3000, description="Scenes drawn for it, disjoint from the experiment's.")
    epochs: Positive = Field(8, description="Epochs of the pretraining.")
    batch_size: Positive = Field(64, description="Images a step.")
    lr: Rate = Field(1e-3, description="Adam learning rate.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)


class EmbeddingSettings(Section):
    """Caption embeddings: each distinct caption goes through the frozen text tower once."""

    batch_size: Annotated[Positive, HOW_TO_RUN] = Field(128, description="Captions that pass the text tower at once.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
