"""Symmetric InfoNCE."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.models.losses.cosine import CosineLoss


class InfoNCE(CosineLoss):
    """Cross-entropy of finding each image's text among the texts and each text's image among the images, by cosine similarities
    (Radford et al. 2103.00020; Wu et al. 2308.07545, eq. 2)."""

    name: str = "infonce"

    def of_logits(self, logits: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """The mean of the image-to-text and the text-to-image cross-entropy."""
        own = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
