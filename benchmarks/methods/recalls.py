"""Recalls on the test split, also of each of its images, so that two methods can be compared on the same images."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.recall_metrics import RECALL_AT
from vldd_dist.retrieval.encode import RetrievalSplit, joint_features
from vldd_dist.retrieval.recall import query_ranks


class Recalls(NamedTuple):
    """Means of the six recalls, percent.

    Attributes:
        students: for each student.
        images: for each image of the split with its captions (`recalls_of_images`), averaged over the students. Their mean is
            that of `students`.
    """

    students: list[float]
    images: list[float]


def recalls_of_images(student: DualEncoder, split: RetrievalSplit, encode_batch: int) -> Tensor:
    """(N,) float64, percent: for each image the mean of the six recalls of its own queries, the image and its captions.

    A caption is weighted by N / C, so that the mean over the images is the mean recall of the split."""
    ranks = query_ranks(*joint_features(student, split, encode_batch), split.image_of_caption)
    of_captions = _found(ranks.captions) * len(ranks.images) / len(ranks.captions)
    return 100 * _found(ranks.images).index_add(0, split.image_of_caption.to(of_captions.device), of_captions) / 2


def _found(ranks: Tensor) -> Tensor:
    """(Q,) float64: the part of the K of `RECALL_AT` at which each query finds its candidate."""
    return torch.stack([(ranks < k).double() for k in RECALL_AT]).mean(dim=0)


def recalls_of(of_students: Sequence[Tensor]) -> Recalls:
    """From `recalls_of_images` of each student. Those of images are rounded, as they are stored."""
    images = torch.stack([*of_students]).mean(dim=0)
    return Recalls([float(of_images.mean()) for of_images in of_students], [round(value, 3) for value in images.tolist()])


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The difference of two mean recalls, in points, and its standard error over the images of the split.

    Args:
        one, other: recalls of the same images, percent.
    """
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
