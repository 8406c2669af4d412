"""embeddings: how the captions are encoded before the experts are trained."""

from typing import Annotated

from pydantic import Field

from vldd_dist.config.base import HOW_TO_RUN, Positive, Resources, Section


class EmbeddingSettings(Section):
    """Caption embeddings: each distinct caption is encoded by the frozen text encoder once. `resources` is also for
    `feature groups`, which encode the images with a frozen image backbone."""

    batch_size: Annotated[Positive, HOW_TO_RUN] = Field(128, description="Captions in a forward pass of the text encoder.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
