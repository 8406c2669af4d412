"""The synthetic pairs and their outer optimiser: what distillation learns and how it is moved and saved."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldd_dist.errors import ConfigError
from vldd_dist.seeding import derive_seed, numpy_generator
from vldd_dist.settings import DistillSettings


@dataclass
class SyntheticPairs:
    """What is learned.

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
    shape: tuple[int, int, int, int],
    caption_vectors: Tensor,
    settings: DistillSettings,
    seed: int,
    device: torch.device,
) -> SyntheticPairs:
    """Pairs that begin as Gaussian noise: images of unit variance, texts with the mean and spread of the caption
    embeddings (n, D), feature by feature."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "noise"))
    images = torch.randn(shape, generator=generator)
    texts = torch.randn((shape[0], caption_vectors.shape[1]), generator=generator)
    texts = texts * caption_vectors.std(dim=0) + caption_vectors.mean(dim=0)
    rates = _start_rates(settings)
    return SyntheticPairs(images.to(device), texts.to(device), rates.to(device), {"initialise": "noise"})


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


class OuterOptimiser:
    """Moves the pairs along their outer gradient: SGD as published, or Adam with betas (0.5, 0.9)."""

    def __init__(self, pairs: SyntheticPairs, settings: DistillSettings) -> None:
        self.pairs = pairs
        groups = [
            {"params": [pairs.images], "lr": settings.lr_images},
            {"params": [pairs.texts], "lr": settings.lr_texts},
        ]
        if settings.lr_rates:
            groups.append({"params": [pairs.log_rates], "lr": settings.lr_rates})
        self.optimiser: torch.optim.Optimizer
        if settings.optimiser == "adam":
            self.optimiser = torch.optim.Adam(groups, betas=(0.5, 0.9))
        else:
            self.optimiser = torch.optim.SGD(groups, momentum=settings.momentum)

    def step(self, images: Tensor, texts: Tensor, rates: Tensor) -> None:
        """One outer step along gradients with respect to images, texts and the inner rates (2,) themselves."""
        self.pairs.images.grad = images
        self.pairs.texts.grad = texts
        self.pairs.log_rates.grad = rates * self.pairs.rates
        self.optimiser.step()

    def as_tensors(self) -> dict[str, Tensor]:
        """The optimiser's state, `group/key` each."""
        return {
            f"{position}/{key}": torch.as_tensor(value)
            for position, group in enumerate(self.optimiser.param_groups)
            for key, value in self.optimiser.state[group["params"][0]].items()
            if value is not None
        }

    def load_tensors(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            position, key = name.split("/", 1)
            parameter = self.optimiser.param_groups[int(position)]["params"][0]
            self.optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)
