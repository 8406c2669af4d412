"""Real pairs by their index in a split: a picture and one of its captions."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from vldd_dist.seeding import numpy_generator

if TYPE_CHECKING:
    from vldd_dist.data.dataset import Dataset


class RealPairs(NamedTuple):
    """Attributes:
    images: (M, 3, H, W) uint8.
    captions, keys: one of each for every picture.
    """

    images: Tensor
    captions: list[str]
    keys: list[str]


def real_pairs(dataset: "Dataset", indices: list[int], numbers: list[int] | None, seed: int) -> RealPairs:
    """Training pictures by index.

    Args:
        numbers: which caption of each; none: drawn by seed and index.
    """
    picked = dataset.pick("train", indices)
    if numbers is None:
        numbers = drawn_captions(picked.captions, indices, seed)
    captions = [given[number] for given, number in zip(picked.captions, numbers, strict=True)]
    return RealPairs(picked.images, captions, picked.keys)


def drawn_captions(captions: list[list[str]], indices: list[int], seed: int) -> list[int]:
    """For each picture the number of one of its captions; a picture's draw depends on the seed and its index alone.

    Args:
        captions: of each of these pictures.
        indices: of the pictures in the split.
    """
    return [
        int(numpy_generator(seed, "caption", index).integers(len(given)))
        for index, given in zip(indices, captions, strict=True)
    ]
