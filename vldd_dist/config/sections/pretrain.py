"""pretrain: how the image tower is pretrained before the experts are trained, if its weights are `attributes`."""

from typing import Annotated

from pydantic import Field

from vldd_dist.config.base import HOW_TO_RUN, Positive, Rate, Resources, Section


class PretrainSettings(Section):
    """Pretraining of the image tower to classify attributes of built-in scenes (model.image.weights: attributes), in the unit
    `image weights`."""

    images: Positive = Field(3000, description="Number of scenes, disjoint from those of the experiment.")
    epochs: Positive = Field(8, description="Epochs of the pretraining.")
    batch_size: Positive = Field(64, description="Images in a step.")
    lr: Rate = Field(1e-3, description="Learning rate of Adam.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
