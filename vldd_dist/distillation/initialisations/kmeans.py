"""Real pairs near the centres of k-means."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start, start_from_real
from vldd_dist.errors import ConfigError
from vldd_dist.seeding import derive_seed


class KMeansPairs(Initialisation):
    """The training pairs nearest to the M centres of an expert's joint features, image and text side by side."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    name: str = "kmeans"

    def start(self, context: RunContext) -> Start:
        """Raises ConfigError when there are fewer training images than pairs."""
        # On one rank: on another kind of machine the last bits of the centres may be others, and so the choice.
        return start_from_real(context, *context.ranks.broadcast(self._choose(context) if context.ranks.is_main else ([], [])))

    def _choose(self, context: RunContext) -> tuple[list[int], list[int]]:
        """Indices of images, and the number of the caption by which each was chosen."""
        features = context.features()
        joint = torch.cat([functional.normalize(features[tower].float()) for tower in ("image", "text")], dim=1)
        indices = kmeans_indices(joint, context.total, context.seed)
        return indices, features["caption"][indices].tolist()


def kmeans_indices(features: Tensor, pairs: int, seed: int) -> list[int]:
    """The images nearest to the M k-means centres of features (N, d), each at most once."""
    # Here, so that only a k-means start loads scikit-learn.
    from sklearn.cluster import KMeans

    if pairs > len(features):
        raise ConfigError(f"distill.pairs ({pairs}) is more than the training images ({len(features)}): lower it")
    points = features.double().numpy()
    centres = KMeans(pairs, n_init=1, random_state=derive_seed(seed, "kmeans") % 2**32).fit(points).cluster_centers_
    distances = ((points**2).sum(1)[None] - 2 * centres @ points.T) + (centres**2).sum(1)[:, None]
    chosen: list[int] = []
    for row in distances:
        row[chosen] = np.inf
        chosen.append(int(row.argmin()))
    return chosen
