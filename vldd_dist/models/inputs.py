"""Model inputs, which the trainable part of a dual encoder takes: images, or their features by a frozen backbone."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.frozen_backbone import FrozenBackbone


def frozen_backbone(model: DualEncoder) -> FrozenBackbone | None:
    """The model's frozen backbone, in the model's precision; None if the backbone is trained, so that the model's inputs are
    images."""
    return FrozenBackbone(model.image_backbone, bf16=model.bf16_backbone) if model.freezes_backbone else None


def model_inputs(model: DualEncoder, images: Tensor) -> Tensor:
    """The model inputs of normalised images (M, 3, H, W), without a graph: the images, or features (M, F) by a frozen
    backbone."""
    backbone = frozen_backbone(model)
    return backbone.features(images) if backbone else images


def on_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on this device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}
