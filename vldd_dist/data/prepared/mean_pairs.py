"""Means of real pairs: pixels and embeddings."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vldd_dist.data.prepared.dataset import Dataset
    from vldd_dist.data.prepared.embeddings import CaptionEmbeddings

# Images in memory at once, beside the sums.
CHUNK = 256


def mean_pairs(
    dataset: "Dataset", embeddings: "CaptionEmbeddings", groups: list[Tensor], captions: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean of each of M groups of training pairs. Each image is read once, in the order of the shards.

    Args:
        groups: of indices (n,), n > 0.
        captions: (N,) int64, which caption of each training image counts.

    Returns:
        (M, 3, H, W) uint8, means of pixels, rounded; (M, D) float32.
    """
    members = torch.cat(groups)
    owners = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    # Sums of bytes, exact in any order.
    pixels = torch.zeros(len(groups), 3, dataset.image_size, dataset.image_size, dtype=torch.int64)
    texts = torch.zeros(len(groups), embeddings.dim, dtype=torch.float64)
    for places in members.argsort().split(CHUNK):
        indices = members[places].tolist()
        pixels.index_add_(0, owners[places], dataset.pick("train", indices).images.long())
        texts.index_add_(0, owners[places], embeddings.rows("train", indices, captions[members[places]].tolist()).double())
    sizes = owners.bincount()
    images = [(total / size).round().to(torch.uint8) for total, size in zip(pixels, sizes, strict=True)]
    return torch.stack(images), (texts / sizes[:, None]).float()
