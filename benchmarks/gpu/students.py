"""The students that figures are of, with random weights."""

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
    """Pixels."""
    return TINY_SIZE if place.tiny else IMAGE_SIZE


def settings_of(student: str, place: Place) -> ModelSettings:
    """The tower of this name, tiny ones of the same kind; the head of the text tower is the published one."""
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
    """What operations are counted of: activations that are computed again are no work of the model's."""
    return settings.model_copy(update={"image": settings.image.model_copy(update={"grad_checkpointing": False})})
