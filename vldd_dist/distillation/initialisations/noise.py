"""Gaussian noise."""

from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start
from vldd_dist.seeding import derive_seed


class Noise(Initialisation):
    """Images of mean zero and unit variance; texts with the mean and standard deviation, feature by feature, of the embeddings
    of the training captions."""

    of_real_pairs: ClassVar[bool] = False
    name: str = "noise"

    def reads_captions(self) -> bool:
        return True

    def start(self, context: DistillationContext) -> Start:
        mean, std = context.embeddings.mean_and_std("train")
        images, texts = noise_pairs(context.rows, context.image_shape, mean, std, context.seed)
        return Start(images.to(context.device), texts.to(context.device), {})


def noise_pairs(rows: range, shape: tuple[int, ...], mean: Tensor, std: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Noise images (m, *shape), and noise texts (m, D) with this mean and standard deviation (D,). The draw of a pair depends
    only on the seed and the pair's index in `rows`."""
    width = len(mean)
    drawn = [
        torch.randn(prod(shape) + width, generator=torch.Generator().manual_seed(derive_seed(seed, "noise", row)))
        for row in rows
    ]
    images, texts = torch.stack(drawn).split([prod(shape), width], dim=1)
    return images.reshape(-1, *shape), texts * std + mean
