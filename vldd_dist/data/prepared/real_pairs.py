"""Real pairs by their index in the training split: an image and one of its captions."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from vldd_dist.seeding import numpy_generator

if TYPE_CHECKING:
    from vldd_dist.data.prepared.dataset import Dataset
    from vldd_dist.data.prepared.embeddings import CaptionEmbeddings


class RealPairs(NamedTuple):
    """Attributes:
    images: (M, 3, H, W) uint8.
    texts: (M, D) float32, the captions' embeddings.
    captions, keys: one of each for every image.
    """

    images: Tensor
    texts: Tensor
    captions: list[str]
    keys: list[str]


def real_pairs(
    dataset: "Dataset", embeddings: "CaptionEmbeddings", indices: list[int], numbers: list[int] | None, seed: int
) -> RealPairs:
    """Training pairs by the index of their image.

    Args:
        numbers: which caption of each; none: drawn by seed and index.
    """
    picked = dataset.pick("train", indices)
    if numbers is None:
        counts = [len(given) for given in picked.captions]
        numbers = [drawn_caption(seed, index, count) for index, count in zip(indices, counts, strict=True)]
    captions = [given[number] for given, number in zip(picked.captions, numbers, strict=True)]
    return RealPairs(picked.images, embeddings.rows("train", indices, numbers), captions, picked.keys)


def drawn_caption(seed: int, index: int, count: int) -> int:
    """The number of one of an image's captions; the draw depends on the seed and the image's index alone."""
    return int(numpy_generator(seed, "caption", index).integers(count))
