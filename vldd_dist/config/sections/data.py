"""data: where images and captions come from and how they are prepared."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vldd_dist.config.base import HOW_TO_RUN, AnyPlugin, Positive, Section, plugin_of
from vldd_dist.plugins import SOURCES


class SplitFractions(Section):
    """What is taken out of the training images for splits that the source does not have."""

    val: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Fraction of the images for validation.")
    test: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Fraction of the images for the test.")

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val ({self.val:g}) and test ({self.test:g}) leave nothing to train on: lower one of them")
        return self


class CardSettings(Section):
    """What a distilled set's card says of the data, in the words of the Hugging Face hub."""

    name: str | None = Field(None, description="The data set's name for readers, e.g. Flickr30k; none: the source's.")
    language: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = Field(
        [], description="Languages of the captions, ISO 639 codes such as en; none: the card names none."
    )
    datasets: list[str] = Field(
        [], description="Where on the hub the data set is, e.g. nlphuji/flickr30k; none: the card names none."
    )


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
    split: SplitFractions = Field(
        default_factory=SplitFractions,
        description="Of a source without validation or test split: the fractions of its images that become one, by a hash of the image's name.",
    )
    image_size: Annotated[int, Field(gt=0, le=16_384)] = Field(224, description="Side of the square images, pixels.")
    resize: Literal["squash", "crop"] = Field(
        "squash", description="squash: both sides to image_size; crop: short side to image_size, then the centre."
    )
    shard_images: Positive = Field(1000, description="Images a shard.")
    group_images: Positive = Field(
        4000, description="Images that one work unit prepares, about: more units for more workers, fewer for less overhead."
    )
    licence: str = Field("unknown", description="Licence of the images and captions, for the distilled set's card.")
    card: Annotated[CardSettings, HOW_TO_RUN] = Field(
        default_factory=CardSettings, description="What the distilled set's card says of the data beside the licence."
    )
    max_bad_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Largest fraction of a split's samples that may be unreadable (image or captions) at preparation; one more stops the run.",
    )

    @property
    def limits(self) -> dict[str, int | None]:
        """Split -> largest number of images to take; none: all."""
        return {"train": self.train_images, "val": self.val_images, "test": self.test_images}
