"""Means of groups of real pairs: mean pixels and mean embeddings."""

import torch
from torch import Tensor

from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings

# Number of images in memory at a time, beside the sums.
CHUNK = 256


def mean_pairs(
    dataset: Dataset, embeddings: CaptionEmbeddings, groups: list[Tensor], captions: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean of each of M groups of training pairs. Each image is read once, in the order of the shards.

    Args:
        groups: M tensors of indices (n,), n > 0.
        captions: (N,) int64, the number of the caption that is used of each training image.

    Returns:
        Mean images (M, 3, H, W) uint8, rounded, and mean embeddings (M, D) float32.
    """
    members = torch.cat(groups)
    owners = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    # Integers, so that the sums are exact in any order.
    pixels = torch.zeros(len(groups), 3, dataset.image_size, dataset.image_size, dtype=torch.int64)
    texts = torch.zeros(len(groups), embeddings.dim, dtype=torch.float64)
    for positions in members.argsort().split(CHUNK):
        indices = members[positions].tolist()
        pixels.index_add_(0, owners[positions], dataset.pick("train", indices).images.long())
        vectors = embeddings.rows("train", indices, captions[members[positions]].tolist())
        texts.index_add_(0, owners[positions], vectors.double())
    sizes = owners.bincount()
    images = [(total / size).round().to(torch.uint8) for total, size in zip(pixels, sizes, strict=True)]
    return torch.stack(images), (texts / sizes[:, None]).float()
