"""The students that are measured, with random weights."""

from typing import Any

from benchmarks.gpu.place import Place
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings

TEXT_DIM = 768
IMAGE_SIZE, TINY_SIZE = 224, 32
TOWERS: dict[str, dict[str, Any]] = {
    "nfnet_l0": {"model": "nfnet_l0"},
    "vit_b": {"model": "vit_base_patch16_224"},
    "vit_b_lora": {"model": "vit_base_patch16_224", "train": "lora"},
    "vit_l": {"model": "vit_large_patch16_224", "grad_checkpointing": True},
}


def image_size(place: Place) -> int:
    """Side of the images, pixels."""
    return TINY_SIZE if place.tiny else IMAGE_SIZE


def settings_of(student: str, place: Place) -> ModelSettings:
    """The model with this image tower (with --tiny, a small one of the same kind) and the published head of the text tower."""
    tower = TOWERS[student]
    if place.tiny:
        small = (
            {"model": "test_nfnet"}
            if "nfnet" in tower["model"]
            else {"model": "test_vit", "model_args": {"img_size": TINY_SIZE}}
        )
        tower = tower | small
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    return ModelSettings(image=ImageTowerSettings(weights="random", **tower), text=text)


def model_flops(settings: ModelSettings) -> ModelSettings:
    """The settings for which operations are counted: recomputing activations does not count."""
    return settings.model_copy(update={"image": settings.image.model_copy(update={"grad_checkpointing": False})})
