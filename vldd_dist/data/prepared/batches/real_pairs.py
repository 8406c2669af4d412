"""Real training pairs, an image and one of its captions, by the index of the image."""

from typing import NamedTuple

import torch
from torch import Tensor

from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings, ShardTexts
from vldd_dist.data.prepared.shard_index import Shard
from vldd_dist.seeding import numpy_generator


class RealPairs(NamedTuple):
    """M real pairs.

    Attributes:
        images: (M, 3, H, W) uint8.
        texts: (M, D) float32, embeddings of the captions.
        captions: one caption of each image.
        keys: the key of each image.
    """

    images: Tensor
    texts: Tensor
    captions: list[str]
    keys: list[str]


def real_pairs(
    dataset: Dataset, embeddings: CaptionEmbeddings, indices: list[int], numbers: list[int] | None, seed: int
) -> RealPairs:
    """Training pairs with the given images.

    Args:
        indices: of the images in the training split.
        numbers: number of the caption of each image; None: drawn by seed and index.
    """
    picked = dataset.pick("train", indices)
    if numbers is None:
        counts = [len(of_image) for of_image in picked.captions]
        numbers = [drawn_caption(seed, index, count) for index, count in zip(indices, counts, strict=True)]
    captions = [of_image[number] for of_image, number in zip(picked.captions, numbers, strict=True)]
    return RealPairs(picked.images, embeddings.rows("train", indices, numbers), captions, picked.keys)


def drawn_texts(texts: ShardTexts, shard: Shard, seed: int) -> tuple[list[int], Tensor]:
    """For each of a shard's n images the number of the caption that `drawn_caption` draws, and its embedding (n, D)."""
    numbers = [drawn_caption(seed, shard.first + position, texts.caption_count(position)) for position in range(shard.images)]
    return numbers, torch.stack([texts.vector(position, number) for position, number in enumerate(numbers)])


def drawn_caption(seed: int, index: int, count: int) -> int:
    """The number of one of an image's captions, drawn by the seed and the image's index."""
    return int(numpy_generator(seed, "caption", index).integers(count))
