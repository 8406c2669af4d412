"""Retrieval recall from features: TR@K (image to text) and IR@K (text to image), see `recall_metrics`."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.recall_metrics import RECALL_AT, with_mean

# Number of queries ranked at once, which limits the memory of the score matrix.
_CHUNK = 1024


@dataclass(frozen=True)
class Recall:
    """Recall of one model on one split, in percent.

    Attributes:
        tr, ir: image-to-text and text-to-image recall at each K of `RECALL_AT`.
    """

    tr: tuple[float, ...]
    ir: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the six recalls."""
        return self.as_dict()["mean"]

    def as_dict(self) -> dict[str, float]:
        """Metric name -> percent, for the six recalls and their mean."""
        return with_mean((*self.tr, *self.ir))


@dataclass(frozen=True)
class QueryRanks:
    """For each query the number of wrong candidates that are ranked ahead of its best right one.

    Attributes:
        images: (N,) int64, for images as queries.
        captions: (C,) int64, for captions as queries.
    """

    images: Tensor
    captions: Tensor


def recall(image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> Recall:
    """Recall, with candidates ranked by cosine similarity. For the arguments see `query_ranks`."""
    ranks = query_ranks(image_features, text_features, image_of_caption)
    tr, ir = (tuple(_percent_within(of_queries, k) for k in RECALL_AT) for of_queries in (ranks.images, ranks.captions))
    return Recall(tr, ir)


def query_ranks(image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> QueryRanks:
    """The ranks of all queries, with candidates ranked by cosine similarity.

    A wrong candidate whose score equals that of the right one, or is NaN, is ranked ahead of it, so that collapsed or diverged
    features get 0 % instead of 100 % at each K for which there are K wrong candidates. Among K or fewer images, IR@K is 100 %
    for any features (see `recall_metrics.coarseness`).

    Args:
        image_features: (N, d).
        text_features: (C, d).
        image_of_caption: (C,) int64, the image each caption belongs to; every image has at least one caption.
    """
    images, texts = functional.normalize(image_features.float()), functional.normalize(text_features.float())
    image_of_caption = image_of_caption.to(images.device)
    text_ranks = torch.cat([_caption_ranks(images, chunk, owner) for chunk, owner in _chunks(texts, image_of_caption)])
    numbers = torch.arange(len(images), device=images.device)
    image_ranks = torch.cat([_image_ranks(chunk, own, texts, image_of_caption) for chunk, own in _chunks(images, numbers)])
    return QueryRanks(image_ranks, text_ranks)


def _chunks(features: Tensor, numbers: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(features.split(_CHUNK), numbers.split(_CHUNK), strict=True))


def _caption_ranks(images: Tensor, texts: Tensor, owner: Tensor) -> Tensor:
    """(c,): for each caption the number of other images that do not score below its own."""
    scores = texts @ images.T
    own = scores.gather(1, owner[:, None])
    return (~(scores < own)).sum(dim=1) - 1


def _image_ranks(images: Tensor, numbers: Tensor, texts: Tensor, image_of_caption: Tensor) -> Tensor:
    """(n,): for each image the number of other images' captions that do not score below the best of its own."""
    scores = images @ texts.T
    own = image_of_caption[None, :] == numbers[:, None]
    best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    return (~(scores < best) & ~own).sum(dim=1)


def _percent_within(ranks: Tensor, k: int) -> float:
    return 100 * float((ranks < k).double().mean())
