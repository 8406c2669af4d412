"""data: where pictures and captions come from and how they are prepared."""

from typing import Annotated, Literal

from pydantic import Field

from vldd_dist.config.base import Positive, Section

# How many scenes are drawn when a description does not say.
SCENES_BY_DEFAULT = {"train": 2000, "val": 200, "test": 200}


class DataSettings(Section):
    """Where pictures and captions come from and how they are prepared."""

    source: Literal["scenes", "karpathy", "shards"] = Field(
        "scenes",
        description="scenes: drawn by the package; karpathy: a Karpathy-style JSON and a folder of images; shards: WebDataset tars (img2dataset output too).",
    )
    train: str | None = Field(
        None, description="shards: URLs of the training tars (globs, {000..012} braces, '::' between several)."
    )
    val: str | None = Field(None, description="shards: URLs of the validation tars.")
    test: str | None = Field(None, description="shards: URLs of the test tars.")
    annotations: str | None = Field(None, description="karpathy: path of the JSON file with splits and sentences.")
    images: str | None = Field(None, description="karpathy: folder that holds the images the JSON names.")
    train_images: Positive | None = Field(
        None,
        description="Pictures in the training split: how many scenes to draw, or the largest number to take of a given source (none: all).",
    )
    val_images: Positive | None = Field(None, description="The same for the validation split.")
    test_images: Positive | None = Field(None, description="The same for the test split.")
    image_size: Annotated[int, Field(gt=0, le=16_384)] = Field(224, description="Side of the square pictures, pixels.")
    resize: Literal["squash", "crop"] = Field(
        "squash", description="squash: both sides to image_size; crop: short side to image_size, then the centre."
    )
    shard_images: Positive = Field(1000, description="Pictures a shard.")
    licence: str = Field("unknown", description="Licence of the pictures and captions, for the distilled set's card.")
    max_bad_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Largest fraction of a split's samples that may be unreadable (picture or captions) at preparation; one more stops the run.",
    )
