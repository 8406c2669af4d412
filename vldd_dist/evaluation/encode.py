"""Features of many pictures and captions, and their recall."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vldd_dist.evaluation.recall import Recall, recall
from vldd_dist.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class RetrievalSplit:
    """A split ready for measuring.

    Attributes:
        images: (N, 3, H, W) uint8.
        texts: (C, D) caption embeddings, picture by picture.
        image_of_caption: (C,) int64.
    """

    images: Tensor
    texts: Tensor
    image_of_caption: Tensor


def image_of_caption(captions: list[list[str]]) -> Tensor:
    """(C,) the picture each caption belongs to, captions listed picture by picture."""
    return torch.arange(len(captions)).repeat_interleave(torch.tensor([len(given) for given in captions]))


@torch.inference_mode()
def encode_images(model: DualEncoder, batches: Iterable[Tensor]) -> Tensor:
    """(N, d) joint features of uint8 pictures (B, 3, H, W); the model in evaluation mode."""
    model.eval()
    device = model.mean.device
    return torch.cat([model.image_features(model.normalise(batch.to(device))) for batch in batches])


@torch.inference_mode()
def encode_texts(model: DualEncoder, texts: Tensor, batch_size: int) -> Tensor:
    """(C, d) joint features of caption embeddings (C, D)."""
    model.eval()
    return torch.cat([model.text_features(batch.to(model.mean.device)) for batch in texts.split(batch_size)])


def measure(model: DualEncoder, split: RetrievalSplit, batch_size: int) -> Recall:
    """Recall of a dual encoder on a split."""
    images = encode_images(model, split.images.split(batch_size))
    return recall(images, encode_texts(model, split.texts, batch_size), split.image_of_caption)
