"""embeddings: how the captions are encoded before the experts are trained."""

from typing import Annotated

from pydantic import Field

from vldd_dist.config.base import HOW_TO_RUN, Positive, Resources, Section


class EmbeddingSettings(Section):
    """Caption embeddings: the frozen text encoder encodes each distinct caption of a group once. `resources` is also for
    `feature groups` (images encoded by a frozen image backbone) and for `image weights` (the starting weights of an image
    tower), unless model.image.weights is attributes: for these, `pretrain.resources` is used."""

    batch_size: Annotated[Positive, HOW_TO_RUN] = Field(128, description="Captions in a forward pass of the text encoder.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
