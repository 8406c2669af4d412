"""Second moments of real image features and caption embeddings, and the maps that whiten them."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
    from vldd_dist.data.prepared.image_features import ImageFeatures


class Whitened(NamedTuple):
    """Attributes:
    image, text: (F, F) and (D, D), the inverse square roots of both covariances with their ridge.
    cross: (K, F, D), S_v^(-1/2) C_k S_l^(-1/2) of each subset of captions.
    means: of images (F,), and of each subset's captions (K, D), not whitened.
    """

    image: Tensor
    text: Tensor
    cross: Tensor
    means: tuple[Tensor, Tensor]


def whitened_moments(features: "ImageFeatures", embeddings: "CaptionEmbeddings", subsets: int, ridge: float) -> Whitened:
    """Of all training images, one shard in memory at a time; sums are float64, the results float32.

    Args:
        subsets: K. Subset k pairs each image with its caption k modulo the number it has. The texts' covariance is of all
            subsets together.
        ridge: of each covariance, as a part of its mean variance.
    """
    count = 0
    images, texts, outer, of_image, of_text = (torch.zeros((), dtype=torch.float64) for _ in range(5))
    for number, shard in enumerate(embeddings.dataset.splits["train"].shards):
        given, of_shard = features.of_shard(shard).double(), embeddings.of_shard(number, "train")
        numbers = torch.arange(subsets)[:, None] % of_shard.first.diff()
        captions = of_shard.vectors[of_shard.first[:-1] + numbers].double()
        count += len(given)
        images, texts = images + given.sum(dim=0), texts + captions.sum(dim=1)
        outer = outer + given.T @ captions
        of_image = of_image + given.T @ given
        of_text = of_text + torch.einsum("knd,kne->de", captions, captions)
    mean, means = images / count, texts / count
    # Of texts around the mean of each subset.
    of_image = (of_image - count * mean.outer(mean)) / (count - 1)
    of_text = (of_text - count * means.T @ means) / (subsets * (count - 1))
    covariances = (outer - count * torch.einsum("f,kd->kfd", mean, means)) / (count - 1)
    left, right = (inverse_root(covariance, ridge) for covariance in (of_image, of_text))
    return Whitened(left.float(), right.float(), (left @ covariances @ right).float(), (mean.float(), means.float()))


def inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    """(S + ridge tr(S)/d I)^(-1/2), symmetric, of (d, d)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * (values.clamp(min=0) + ridge * values.mean()).rsqrt()) @ vectors.T
