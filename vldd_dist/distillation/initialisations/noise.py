"""Gaussian noise."""

from math import prod

import torch
from torch import Tensor

from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start
from vldd_dist.seeding import derive_seed


class Noise(Initialisation):
    """Images of unit variance; texts with the mean and spread of the training captions' embeddings, feature by feature."""

    name: str = "noise"

    def start(self, context: RunContext) -> Start:
        size, device = context.dataset.image_size, context.device
        captions = context.embeddings.restricted_to(context.dataset.distinct_captions("train")).vectors
        images, texts = noise_pairs(context.rows, (3, size, size), captions, context.seed)
        return Start(images.to(device), texts.to(device), {})


def noise_pairs(rows: range, shape: tuple[int, int, int], caption_vectors: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Images (m, *shape) and texts (m, D) like caption embeddings (n, D). Each pair draws by its number in `rows`."""
    width = caption_vectors.shape[1]
    drawn = [
        torch.randn(prod(shape) + width, generator=torch.Generator().manual_seed(derive_seed(seed, "noise", row)))
        for row in rows
    ]
    images, texts = torch.stack(drawn).split([prod(shape), width], dim=1)
    texts = texts * caption_vectors.std(dim=0) + caption_vectors.mean(dim=0)
    return images.reshape(-1, *shape), texts
