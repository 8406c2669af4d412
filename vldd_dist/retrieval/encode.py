"""Joint features of many images and captions, and their recall."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import frozen_backbone
from vldd_dist.retrieval.recall import Recall, recall
from vldd_dist.sharding.ranks import SOLO, Ranks


@dataclass(frozen=True)
class RetrievalSplit:
    """A split, prepared for measuring models with the same kind of image tower.

    Attributes:
        inputs: (N, 3, H, W) uint8 images; for models with a frozen backbone its features (N, F) float32, so that the backbone
            does not run again with every measurement.
        texts: (C, D) caption embeddings, grouped by image.
        image_of_caption: (C,) int64, the index of the image that each caption belongs to.
    """

    inputs: Tensor
    texts: Tensor
    image_of_caption: Tensor


def retrieval_split(
    model: DualEncoder, images: Tensor, texts: Tensor, image_of_caption: Tensor, batch_size: int
) -> RetrievalSplit:
    """Prepare a split for models like `model`: images (N, 3, H, W) uint8, the rest as in `RetrievalSplit`."""
    inputs = torch.cat(list(image_inputs(model, images.split(batch_size)))) if model.freezes_backbone else images
    return RetrievalSplit(inputs, texts, image_of_caption)


def image_inputs(model: DualEncoder, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The model inputs of uint8 images (B, 3, H, W), batch by batch, on the model's device, in evaluation mode and without a
    graph."""
    model.eval()
    backbone = frozen_backbone(model)
    for batch in batches:
        images = model.normalise(batch.to(model.mean.device))
        yield backbone.features(images) if backbone else images


@torch.no_grad()
def encode_images(model: DualEncoder, batches: Iterable[Tensor]) -> Tensor:
    """(N, d) joint features of uint8 images (B, 3, H, W), in evaluation mode."""
    return torch.cat([model.image_features(inputs) for inputs in image_inputs(model, batches)])


@torch.no_grad()
def encode_inputs(model: DualEncoder, batches: Iterable[Tensor]) -> Tensor:
    """(N, d) joint features of model inputs, in evaluation mode: normalised images (B, 3, H, W) or, of a frozen backbone, its
    features (B, F)."""
    model.eval()
    return torch.cat([model.image_features(batch.to(model.mean.device)) for batch in batches])


@torch.no_grad()
def encode_texts(model: DualEncoder, texts: Tensor, batch_size: int) -> Tensor:
    """(C, d) joint features of caption embeddings (C, D), in evaluation mode."""
    model.eval()
    return torch.cat([model.text_features(batch.to(model.mean.device)) for batch in texts.split(batch_size)])


def measure(model: DualEncoder, split: RetrievalSplit, batch_size: int, ranks: Ranks = SOLO) -> Recall:
    """Recall of a dual encoder on a split. With several ranks, which must hold equal models, each encodes some of the rows."""
    return recall(*joint_features(model, split, batch_size, ranks), split.image_of_caption)


@torch.no_grad()
def joint_features(model: DualEncoder, split: RetrievalSplit, batch_size: int, ranks: Ranks = SOLO) -> tuple[Tensor, Tensor]:
    """Joint features of the images (N, d) and of the captions (C, d) of a split, on every rank."""
    model.eval()
    inputs, captions = (rows[slice(*ranks.rows_to_compute(len(rows)))] for rows in (split.inputs, split.texts))
    if model.freezes_backbone:
        images = encode_inputs(model, inputs.split(batch_size))
    else:
        images = encode_images(model, inputs.split(batch_size))
    texts = encode_texts(model, captions, batch_size)
    gather = ranks.rows_gatherer
    return gather(len(split.inputs))(images), gather(len(split.texts))(texts)
