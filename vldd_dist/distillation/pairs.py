"""The synthetic pairs: what distillation learns, and where it begins."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldd_dist.config.distillation import DistillSettings
from vldd_dist.errors import ConfigError
from vldd_dist.seeding import derive_seed, numpy_generator


@dataclass
class SyntheticPairs:
    """What is learned; of several ranks each has the rows `Ranks.rows(M)`.

    Attributes:
        images: (M, 3, H, W) float32, normalised as the image tower wants them.
        texts: (M, D) float32, in the frozen text tower's output space.
        log_rates: (2,) float32, natural logarithms of the inner learning rates of the image and the text tower. The
            logarithm is what is learned: a rate cannot turn negative (docs/decisions.md).
        start: where the pairs began: picture keys and captions for a start from real pairs.
    """

    images: Tensor
    texts: Tensor
    log_rates: Tensor
    start: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def rates(self) -> Tensor:
        """(2,) inner learning rates, image and text."""
        return self.log_rates.exp()

    def as_tensors(self) -> dict[str, Tensor]:
        return {"images": self.images, "texts": self.texts, "log_rates": self.log_rates}

    def copy_(self, other: "SyntheticPairs") -> None:
        """Take the other's values."""
        for name, tensor in self.as_tensors().items():
            tensor.copy_(other.as_tensors()[name])

    def clone(self) -> "SyntheticPairs":
        copies = {name: tensor.detach().clone() for name, tensor in self.as_tensors().items()}
        return SyntheticPairs(**copies, start=self.start)


def start_from_real(
    images: Tensor, texts: Tensor, settings: DistillSettings, keys: list[str], captions: list[str]
) -> SyntheticPairs:
    """Pairs that begin as real ones: images (M, 3, H, W) normalised, texts (M, D)."""
    start = {"initialise": settings.initialise, "keys": keys, "captions": captions}
    return SyntheticPairs(images.clone(), texts.clone(), _start_rates(settings).to(images.device), start)


def start_from_noise(
    rows: range,
    shape: tuple[int, int, int],
    caption_vectors: Tensor,
    settings: DistillSettings,
    seed: int,
    device: torch.device,
) -> SyntheticPairs:
    """Pairs that begin as Gaussian noise: images of unit variance, texts with the mean and spread of the caption
    embeddings (n, D), feature by feature. Each pair draws by its number in `rows`, whoever makes it."""
    width = caption_vectors.shape[1]
    drawn = [
        torch.randn(prod(shape) + width, generator=torch.Generator().manual_seed(derive_seed(seed, "noise", row)))
        for row in rows
    ]
    images, texts = torch.stack(drawn).split([prod(shape), width], dim=1)
    texts = texts * caption_vectors.std(dim=0) + caption_vectors.mean(dim=0)
    images = images.reshape(-1, *shape)
    return SyntheticPairs(images.to(device), texts.to(device), _start_rates(settings).to(device), {"initialise": "noise"})


def _start_rates(settings: DistillSettings) -> Tensor:
    return torch.tensor([settings.inner_lr_image, settings.inner_lr_text]).log()


def random_indices(pictures: int, pairs: int, seed: int) -> list[int]:
    """M distinct pictures of N, drawn by seed."""
    if pairs > pictures:
        raise ConfigError(f"distill.pairs ({pairs}) is more than the training pictures ({pictures}): lower it")
    return numpy_generator(seed, "start", pairs).choice(pictures, pairs, replace=False).tolist()


def kmeans_indices(features: Tensor, pairs: int, seed: int) -> list[int]:
    """The pictures nearest to the M k-means centres of features (N, d), each at most once."""
    # Here, so that only a k-means start loads scikit-learn.
    from sklearn.cluster import KMeans

    if pairs > len(features):
        raise ConfigError(f"distill.pairs ({pairs}) is more than the training pictures ({len(features)}): lower it")
    points = features.double().numpy()
    centres = KMeans(pairs, n_init=1, random_state=derive_seed(seed, "kmeans") % 2**32).fit(points).cluster_centers_
    distances = ((points**2).sum(1)[None] - 2 * centres @ points.T) + (centres**2).sum(1)[:, None]
    chosen: list[int] = []
    for row in distances:
        row[chosen] = np.inf
        chosen.append(int(row.argmin()))
    return chosen
