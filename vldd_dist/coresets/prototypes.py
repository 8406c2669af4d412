"""Prototypes without training (PDS, 2602.19756): means of the pairs that a cluster of images and a cluster of texts share.

The published method has a diffusion model draw an image from each prototype's embedding. Here an image is the mean of pixels.
"""

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates


class Prototypes(Coreset):
    """Means of the pairs that a cluster of images and one of texts have in common."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    remark: ClassVar[str | None] = "means of real pairs, made without distillation"
    dropped: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2,
        description="Part of the training pairs that is left out: those of the least similar image and caption.",
    )

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """The real pairs that stand for the prototypes."""
        return torch.stack([group[0] for group in self.groups(candidates, count, generator)])

    def groups(self, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
        """k-means of images and of texts, `count` clusters each, and the assignment of the ones to the others with most pairs
        in common. Where a cluster of images shares no pair with its cluster of texts, the prototype is one real pair: of those
        in no prototype the nearest to both centres."""
        # Here, so that only who clusters loads them.
        from scipy.optimize import linear_sum_assignment

        assert candidates.image is not None
        assert candidates.text is not None
        image, text = (functional.normalize(features.double()) for features in (candidates.image, candidates.text))
        left = max(count, len(image) - int(self.dropped * len(image)))
        kept = (image * text).sum(dim=1).argsort(descending=True, stable=True)[:left].sort().values
        seed = int(generator.integers(2**32))
        clusters = [_k_means(features[kept].numpy(), count, seed) for features in (image, text)]
        (of_image, image_centres), (of_text, text_centres) = clusters
        shared = np.zeros((count, count))
        np.add.at(shared, (of_image, of_text), 1)
        matched = linear_sum_assignment(shared, maximize=True)[1]
        joint, centres = torch.cat([image, text], dim=1)[kept], np.concatenate([image_centres, text_centres[matched]], axis=1)
        groups = [np.flatnonzero((of_image == cluster) & (of_text == matched[cluster])) for cluster in range(count)]
        taken = np.zeros(len(kept), dtype=bool)
        taken[np.concatenate(groups)] = True
        for cluster, group in enumerate(groups):
            distance = (joint - torch.from_numpy(centres[cluster])).square().sum(dim=1).numpy()
            if len(group) == 0:
                groups[cluster] = np.array([np.where(taken, np.inf, distance).argmin()])
                taken[groups[cluster]] = True
            else:
                middle = joint[group].mean(dim=0)
                groups[cluster] = group[(joint[group] - middle).square().sum(dim=1).argsort(stable=True).numpy()]
        return [kept[torch.from_numpy(group)] for group in groups]


def _k_means(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each of the points (n, d), and the centres (count, d)."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=1, random_state=seed).fit(points)
    return found.labels_, found.cluster_centers_
