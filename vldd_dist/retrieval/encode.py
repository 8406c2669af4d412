"""Features of many pictures and captions, and their recall."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.retrieval.recall import Recall, recall
from vldd_dist.sharding.ranks import SOLO, Ranks


@dataclass(frozen=True)
class RetrievalSplit:
    """A split ready for measuring models of one kind.

    Attributes:
        inputs: (N, 3, H, W) uint8 pictures; or, for models with a frozen backbone, its features (N, F) float32, so that
            measuring again does not run it again.
        texts: (C, D) caption embeddings, picture by picture.
        image_of_caption: (C,) int64, the picture each caption belongs to.
    """

    inputs: Tensor
    texts: Tensor
    image_of_caption: Tensor


def retrieval_split(
    model: DualEncoder, images: Tensor, texts: Tensor, captions: list[list[str]], batch_size: int
) -> RetrievalSplit:
    """For models like `model`: images (N, 3, H, W) uint8, texts (C, D) in the order of `captions`."""
    inputs = torch.cat(list(picture_inputs(model, images.split(batch_size)))) if model.frozen_backbone else images
    owners = torch.arange(len(captions)).repeat_interleave(torch.tensor([len(given) for given in captions]))
    return RetrievalSplit(inputs, texts, owners)


def picture_inputs(model: DualEncoder, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """`model.inputs` of uint8 pictures, batch by batch, on the model's device, in evaluation mode, without a graph."""
    model.eval()
    for batch in batches:
        # Inside the loop: a generator's context would leak into its caller between two batches.
        with torch.no_grad():
            yield model.inputs(model.normalise(batch.to(model.mean.device)))


@torch.no_grad()
def encode_images(model: DualEncoder, batches: Iterable[Tensor]) -> Tensor:
    """(N, d) joint features of uint8 pictures (B, 3, H, W), in evaluation mode."""
    return torch.cat([model.image_features(inputs) for inputs in picture_inputs(model, batches)])


@torch.no_grad()
def encode_texts(model: DualEncoder, texts: Tensor, batch_size: int) -> Tensor:
    """(C, d) joint features of caption embeddings (C, D), in evaluation mode."""
    model.eval()
    return torch.cat([model.text_features(batch.to(model.mean.device)) for batch in texts.split(batch_size)])


@torch.no_grad()
def measure(model: DualEncoder, split: RetrievalSplit, batch_size: int, ranks: Ranks = SOLO) -> Recall:
    """Recall of a dual encoder on a split; of several ranks, with equal models, each encodes a part."""
    model.eval()
    pictures, captions = (rows[slice(*ranks.rows_to_compute(len(rows)))] for rows in (split.inputs, split.texts))
    if model.frozen_backbone:
        encoded = [model.image_features(batch.to(model.mean.device)) for batch in pictures.split(batch_size)]
        images = torch.cat(encoded)
    else:
        images = encode_images(model, pictures.split(batch_size))
    texts = encode_texts(model, captions, batch_size)
    gather = ranks.rows_gatherer
    return recall(gather(len(split.inputs))(images), gather(len(split.texts))(texts), split.image_of_caption)
