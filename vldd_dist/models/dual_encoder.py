"""The dual encoder: an image tower and a head on caption embeddings, which map into a joint space."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.errors import ConfigError
from vldd_dist.models.heads import build_head
from vldd_dist.models.image.backbone import (
    create_backbone,
    enable_grad_checkpointing,
    feature_size,
    load_backbone,
    make_trainable,
)
from vldd_dist.seeding import seeded
from vldd_dist.training_loop import freeze_norm_statistics

HEADS = ("image_head", "text_head")


class DualEncoder(nn.Module):
    """Both towers, but without the frozen text encoder: from images and from caption embeddings to the joint space.

    Instead of images it takes model inputs (`models.inputs`): normalised images (B, 3, H, W) or, if the backbone is frozen,
    features (B, F) of them, which need to be computed only once per image.

    Shapes: B images or captions, D caption embedding size, d size of the joint space.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, settings: ModelSettings, text_dim: int) -> None:
        super().__init__()
        image_dim = feature_size(backbone)
        self.text_dim = text_dim
        self.joint_dim = settings.joint_dim or image_dim
        for tower, head, dim in (("image", settings.image.head, image_dim), ("text", settings.text.head, text_dim)):
            if head.kind == "none" and dim != self.joint_dim:
                raise ConfigError(
                    f"model.{tower}.head.kind: none needs {tower} features of the joint space's size "
                    f"({self.joint_dim}), they have {dim}: choose linear or projection"
                )
        self.image_settings = settings.image
        self.image_backbone = backbone
        self.freezes_backbone = settings.image.freezes_backbone
        self.recomputes = settings.image.grad_checkpointing and not self.freezes_backbone
        self.image_head = build_head(settings.image.head, image_dim, self.joint_dim)
        self.text_head = build_head(settings.text.head, text_dim, self.joint_dim)
        if settings.image.train == "frozen":
            self.image_head.requires_grad_(False)
        if settings.text.train == "frozen":
            self.text_head.requires_grad_(False)
        # Whether `forward`, or the `FrozenBackbone` in its place, runs the backbone in bfloat16 by autocast. Parameters and
        # heads stay in fp32.
        self.bf16_backbone = False
        # This rank's rows -> the rows of all ranks, differentiable. The identity for a single process.
        self.gather_rows: Callable[[Tensor], Tensor] = _identity
        self.register_buffer("mean", torch.tensor(settings.image.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(settings.image.std)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        freeze_norm_statistics(self)
        if self.freezes_backbone:
            # No dropout in a frozen backbone: the features of an image must not depend on when they are computed.
            self.image_backbone.eval()
        return self

    def image_features(self, inputs: Tensor) -> Tensor:
        """Model inputs -> (B, d)."""
        return self.image_head(inputs if self.freezes_backbone else self.image_backbone(inputs))

    def text_features(self, embeddings: Tensor) -> Tensor:
        """Caption embeddings (B, D) -> (B, d)."""
        return self.text_head(embeddings)

    def forward(
        self, inputs: Tensor, embeddings: Tensor, mix: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image and text features, (B, d) each, of model inputs and caption embeddings.

        With several ranks, each gives its own rows and gets the features of all rows. The backbone computes the rank's rows
        only; the cheap heads compute the whole batch on every rank, so that their dropout masks do not depend on the number of
        ranks.

        Args:
            mix: applied to all rows (B, ...) of features and of embeddings before the heads, see `Blending`; None: not mixed.
        """
        # Autocast is entered only if needed, because the meta device on which the planner traces has none.
        with torch.autocast(inputs.device.type, torch.bfloat16) if self.bf16_backbone else nullcontext():
            features = inputs if self.freezes_backbone else self.image_backbone(inputs)
        features = features.to(embeddings.dtype)
        all_features, all_embeddings = self.gather_rows(features), self.gather_rows(embeddings)
        if mix is not None:
            all_features, all_embeddings = mix(all_features), mix(all_embeddings)
        return self.image_head(all_features), self.text_head(all_embeddings)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, normalised with the image tower's mean and std."""
        return (pixels.to(torch.float32) / 255 - self.mean) / self.std

    def renormalise(self, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """(B, 3, H, W) float, normalised with another tower's mean and std -> normalised with this one's. Nothing is clipped;
        with the same mean and std the images are returned as they are."""
        others_mean, others_std = (torch.tensor(values)[:, None, None].to(self.mean) for values in (mean, std))
        if torch.equal(others_mean, self.mean) and torch.equal(others_std, self.std):
            return images
        return (images * others_std + others_mean - self.mean) / self.std

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`: (B, 3, H, W) float -> uint8, clipped to 0..255."""
        return ((images * self.std + self.mean).clamp(0, 1) * 255).round().to(torch.uint8)


def _identity(rows: Tensor) -> Tensor:
    return rows


def build(settings: ModelSettings, text_dim: int, image_weights: dict[str, Tensor] | None, head_seed: int) -> DualEncoder:
    """A dual encoder with its starting weights.

    Args:
        text_dim: size of the caption embeddings.
        image_weights: timm state dict of the backbone. None if and only if settings.image.weights is random. A backbone that is
            trained is then drawn from `head_seed` too. If its own weights are not trained (`head`, `lora`, `frozen`), it is the
            same for every seed, because an expert's snapshots do not contain these weights.
        head_seed: seed of the heads and the adapters.

    Raises:
        ConfigError: unknown model, feature sizes that do not fit together, or LoRA targets that match nothing.
        DataError: the weights are of another model.
    """
    image = settings.image
    if (image_weights is None) != (image.weights == "random"):
        raise ConfigError(f"model.image.weights is {image.weights}, which does not fit the weights that were given")
    backbone_seed = head_seed if image.draws_backbone else 0
    backbone = create_backbone(image.model, image.model_args, pretrained=False, seed=backbone_seed)
    if image_weights is not None:
        load_backbone(backbone, image_weights, image.model)
    if image.grad_checkpointing:
        enable_grad_checkpointing(backbone, image.model)
    with seeded(head_seed):
        return DualEncoder(make_trainable(backbone, image), settings, text_dim).eval()
