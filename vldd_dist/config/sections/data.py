"""data: where images and captions come from and how they are prepared."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vldd_dist.config.base import HOW_TO_RUN, AnyPlugin, Positive, Section, plugin_of
from vldd_dist.plugins import SOURCES


class SplitFractions(Section):
    """The fractions of the training images that become a validation or test split if the source has none."""

    val: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Fraction of the images for validation.")
    test: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Fraction of the images for the test.")

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val ({self.val:g}) and test ({self.test:g}) leave nothing to train on: lower one of them")
        return self


class CardSettings(Section):
    """What a distilled set's card says about the data, in the terms of the Hugging Face hub."""

    name: str | None = Field(None, description="Display name of the data set, for example Flickr30k; null: the source's name.")
    language: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = Field(
        [], description="Languages of the captions as ISO 639 codes, for example en; an empty list leaves them out of the card."
    )
    datasets: list[str] = Field(
        [],
        description="Ids of the data set on the hub, for example nlphuji/flickr30k; an empty list leaves them out of the card.",
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
        description="Images in the training split: the number of scenes to draw, or of images to take from another source, "
        "the first in the source's order (null: all).",
    )
    val_images: Positive | None = Field(
        None, description="Images in the validation split, of another source than scenes the first in its order (null: all)."
    )
    test_images: Positive | None = Field(
        None, description="Images in the test split, of another source than scenes the first in its order (null: all)."
    )
    split: SplitFractions = Field(
        default_factory=SplitFractions,
        description="If the source has no validation or test split, these fractions of its training images, chosen by a hash of "
        "the image's name, become that split.",
    )
    image_size: Annotated[int, Field(gt=0, le=16_384)] = Field(224, description="Side length of the square images, pixels.")
    resize: Literal["squash", "crop"] = Field(
        "squash",
        description="squash: resize both sides to image_size; crop: resize the shorter side to image_size and crop the centre.",
    )
    shard_images: Positive = Field(1000, description="Images in a shard.")
    group_images: Positive = Field(
        4000,
        description="Approximate number of images that one work unit prepares: a smaller number makes more units to run in "
        "parallel, a larger one has less overhead.",
    )
    licence: Annotated[str, HOW_TO_RUN] = Field(
        "unknown", description="Licence of the images and captions, for the distilled set's card."
    )
    card: Annotated[CardSettings, HOW_TO_RUN] = Field(
        default_factory=CardSettings, description="What else the distilled set's card says about the data."
    )
    max_bad_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Largest fraction of a split's samples whose image or captions may be unreadable; beyond it, preparation of the "
        "data fails.",
    )

    @property
    def limits(self) -> dict[str, int | None]:
        """Split -> largest number of images to take; None: all."""
        return {"train": self.train_images, "val": self.val_images, "test": self.test_images}

    def carved(self) -> dict[str, float]:
        """Split that the source lacks -> the fraction of the training images that becomes this split."""
        own_splits = self.source.own_splits()
        return {name: fraction for name, fraction in self.split if name not in own_splits}

    def ignored_fractions(self) -> list[str]:
        """A sentence for each fraction in `split` that is not the default and has no effect, because the source has that split."""
        default, own_splits = SplitFractions(), self.source.own_splits()
        return [
            f"data.split.{name} ({fraction:g}) has no effect: the source has a {name} split"
            for name, fraction in self.split
            if name in own_splits and fraction != getattr(default, name)
        ]
