"""The moments of real image features and caption embeddings, and the matrices that whiten them."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
    from vldd_dist.data.prepared.image_features import ImageFeatures


class Whitened(NamedTuple):
    """The moments, float32.

    Attributes:
        image, text: S_v^(-1/2) (F, F) and S_l^(-1/2) (D, D), the inverse roots of the covariances with their ridge.
        cross: (K, F, D), the whitened cross-covariance S_v^(-1/2) C_k S_l^(-1/2) of each subset of captions.
        means: of the images (F,), and of each subset's captions (K, D); not whitened.
    """

    image: Tensor
    text: Tensor
    cross: Tensor
    means: tuple[Tensor, Tensor]


def whitened_moments(features: "ImageFeatures", embeddings: "CaptionEmbeddings", subsets: int, ridge: float) -> Whitened:
    """The moments over all training images. A few shards are in memory at a time; sums are accumulated in float64.

    Args:
        subsets: K. Subset k pairs each image with its caption k modulo the number of its captions. The covariance of the texts
            is that of all subsets together.
        ridge: added to each covariance, in units of its mean variance.
    """
    count = 0
    # Sums (F,), (K, D), (K, F, D), (F, F) and (D, D); the first shard gives them their shapes.
    image_sum, text_sum, cross_sum, image_square, text_square = (torch.zeros((), dtype=torch.float64) for _ in range(5))
    shards = embeddings.splits["train"].shards
    for shard_features, shard_embeddings in zip(features.of_shards(shards), embeddings.of_shards(shards), strict=True):
        images = shard_features.double()
        # (K, n): the number of each image's caption in each subset.
        numbers = torch.arange(subsets)[:, None] % shard_embeddings.first.diff()
        captions = shard_embeddings.vectors[shard_embeddings.first[:-1] + numbers].double()
        count += len(images)
        image_sum, text_sum = image_sum + images.sum(dim=0), text_sum + captions.sum(dim=1)
        cross_sum = cross_sum + images.T @ captions
        image_square = image_square + images.T @ images
        text_square = text_square + torch.einsum("knd,kne->de", captions, captions)
    mean, means = image_sum / count, text_sum / count
    image_covariance = (image_square - count * mean.outer(mean)) / (count - 1)
    # Texts are centred on the mean of their own subset.
    text_covariance = (text_square - count * means.T @ means) / (subsets * (count - 1))
    cross_covariances = (cross_sum - count * torch.einsum("f,kd->kfd", mean, means)) / (count - 1)
    left, right = inverse_root(image_covariance, ridge), inverse_root(text_covariance, ridge)
    return Whitened(left.float(), right.float(), (left @ cross_covariances @ right).float(), (mean.float(), means.float()))


def inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    """The symmetric (S + ridge tr(S)/d I)^(-1/2) of a covariance S (d, d)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * (values.clamp(min=0) + ridge * values.mean()).rsqrt()) @ vectors.T
