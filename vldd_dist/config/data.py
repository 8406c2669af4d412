"""data: where images and captions come from and how they are prepared."""

from typing import Annotated, Literal

from pydantic import Field

from vldd_dist.config.base import AnyPlugin, Positive, Section, plugin_of
from vldd_dist.plugins import SOURCES


class DataSettings(Section):
    """Where images and captions come from and how they are prepared."""

    source: Annotated[AnyPlugin, plugin_of(SOURCES)] = Field(
        "scenes",
        validate_default=True,
        description="Where the pairs come from: NAME, or {name: NAME, SETTING: VALUE}.",
    )
    train_images: Positive | None = Field(
        None,
        description="Images in the training split: how many scenes to draw, or the largest number to take of a given source (none: all).",
    )
    val_images: Positive | None = Field(None, description="The same for the validation split.")
    test_images: Positive | None = Field(None, description="The same for the test split.")
    image_size: Annotated[int, Field(gt=0, le=16_384)] = Field(224, description="Side of the square images, pixels.")
    resize: Literal["squash", "crop"] = Field(
        "squash", description="squash: both sides to image_size; crop: short side to image_size, then the centre."
    )
    shard_images: Positive = Field(1000, description="Images a shard.")
    licence: str = Field("unknown", description="Licence of the images and captions, for the distilled set's card.")
    max_bad_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Largest fraction of a split's samples that may be unreadable (image or captions) at preparation; one more stops the run.",
    )

    @property
    def limits(self) -> dict[str, int | None]:
        """Split -> largest number of images to take; none: all."""
        return {"train": self.train_images, "val": self.val_images, "test": self.test_images}
