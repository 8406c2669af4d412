"""Separate initialisations of images and texts."""

from typing import Annotated

from pydantic import Field, model_validator

from vldd_dist.config.base import AnyPlugin, choose, plugin_of
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start
from vldd_dist.plugins import INITIALISATIONS

One = Annotated[AnyPlugin, plugin_of(INITIALISATIONS)]


class ByModality(Initialisation):
    """Images and texts each have their own initialisation: `{images: noise, texts: real}` in a description. If both are the
    same, each text belongs to its image."""

    name: str = "by_modality"
    images: One = Field(default_factory=lambda: choose(INITIALISATIONS, "real"), description="Initialisation of the images.")
    texts: One = Field(default_factory=lambda: choose(INITIALISATIONS, "real"), description="Initialisation of the texts.")

    @model_validator(mode="after")
    def _same_real_pairs(self) -> "ByModality":
        if self.images != self.texts and self.images.of_real_pairs and self.texts.of_real_pairs:
            raise ValueError(
                f"images: {self.images.label} and texts: {self.texts.label} choose different real pairs, so that no text would "
                "belong to its image: name one of them for both, or noise for one"
            )
        return self

    def start(self, context: DistillationContext) -> Start:
        if self.images == self.texts:
            start: Start = self.images.checked_start(context)
            return start
        images, texts = self.images.checked_start(context), self.texts.checked_start(context)
        return Start(images.images, texts.texts, images.provenance | texts.provenance)

    def needed(self) -> frozenset[str]:
        needed: frozenset[str] = self.images.needed() | self.texts.needed()
        return needed

    def reads_real_pairs(self) -> bool:
        return bool(self.images.reads_real_pairs() or self.texts.reads_real_pairs())

    def reads_captions(self) -> bool:
        return bool(self.images.reads_captions() or self.texts.reads_captions())

    def sources(self) -> dict[str, str]:
        return {"images": self.images.label, "texts": self.texts.label}
