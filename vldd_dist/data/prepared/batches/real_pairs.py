"""Real training pairs, an image and one of its captions, by the index of the image."""

from typing import NamedTuple

from torch import Tensor

from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
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


def drawn_caption(seed: int, index: int, count: int) -> int:
    """The number of one of an image's captions, drawn by the seed and the image's index."""
    return int(numpy_generator(seed, "caption", index).integers(count))
