"""pretrain and embeddings: what is computed once, before the experts are trained."""

from typing import Annotated

from pydantic import Field

from vldd_dist.config.base import HOW_TO_RUN, Positive, Rate, Resources, Section


class PretrainSettings(Section):
    """Pretraining of the image tower to classify attributes of built-in scenes (model.image.weights: attributes)."""

    images: Positive = Field(3000, description="Number of scenes, disjoint from those of the experiment.")
    epochs: Positive = Field(8, description="Epochs of the pretraining.")
    batch_size: Positive = Field(64, description="Images in a step.")
    lr: Rate = Field(1e-3, description="Learning rate of Adam.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)


class EmbeddingSettings(Section):
    """Caption embeddings: each distinct caption is encoded by the frozen text encoder once."""

    batch_size: Annotated[Positive, HOW_TO_RUN] = Field(128, description="Captions in a forward pass of the text encoder.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
