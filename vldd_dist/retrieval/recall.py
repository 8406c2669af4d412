"""Retrieval recall: TR@K (image to text) and IR@K (text to image), K = 1, 5, 10."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

KS = (1, 5, 10)
_CHUNK = 1024


@dataclass(frozen=True)
class Recall:
    """Percent. tr: pictures whose best-ranked own caption is among the first K; ir: captions whose picture is."""

    tr1: float
    tr5: float
    tr10: float
    ir1: float
    ir5: float
    ir10: float

    @property
    def mean(self) -> float:
        """Mean of the six."""
        return sum(asdict(self).values()) / 6

    def as_dict(self) -> dict[str, float]:
        """The six and their mean."""
        return asdict(self) | {"mean": self.mean}


def recall(image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> Recall:
    """Rank by cosine similarity. A score that is not lower, be it equal or NaN, counts as ranked ahead of the right answer,
    so that collapsed and diverged features score nothing instead of everything.

    Args:
        image_features: (N, d).
        text_features: (C, d).
        image_of_caption: (C,) int64, the picture each caption belongs to; every picture has at least one caption.
    """
    images, texts = functional.normalize(image_features.float()), functional.normalize(text_features.float())
    image_of_caption = image_of_caption.to(images.device)
    text_ranks = torch.cat([_caption_ranks(images, chunk, owner) for chunk, owner in _chunks(texts, image_of_caption)])
    numbers = torch.arange(len(images), device=images.device)
    image_ranks = torch.cat([_picture_ranks(chunk, own, texts, image_of_caption) for chunk, own in _chunks(images, numbers)])
    tr, ir = ([_percent_within(ranks, k) for k in KS] for ranks in (image_ranks, text_ranks))
    return Recall(*tr, *ir)


def _chunks(features: Tensor, numbers: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(features.split(_CHUNK), numbers.split(_CHUNK), strict=True))


def _caption_ranks(images: Tensor, texts: Tensor, owner: Tensor) -> Tensor:
    """(c,) how many other pictures do not score below the caption's own."""
    scores = texts @ images.T
    own = scores.gather(1, owner[:, None])
    return (~(scores < own)).sum(dim=1) - 1


def _picture_ranks(images: Tensor, numbers: Tensor, texts: Tensor, image_of_caption: Tensor) -> Tensor:
    """(n,) how many captions of other pictures do not score below the best own caption."""
    scores = images @ texts.T
    own = image_of_caption[None, :] == numbers[:, None]
    best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    return (~(scores < best) & ~own).sum(dim=1)


def _percent_within(ranks: Tensor, k: int) -> float:
    return 100 * float((ranks < k).double().mean())
