"""Training-free prototypes (PDS, 2602.19756): means of the pairs that a cluster of images and a cluster of texts share.

In the published method a diffusion model generates an image from each prototype's embedding. Here an image is a mean of pixels.
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
    """Means of the pairs that a cluster of images and a cluster of texts have in common."""

    needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})
    averages: ClassVar[bool] = True
    dropped: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2,
        description="Fraction of the training pairs that is left out: those whose image and caption are least similar.",
    )

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices: the first real pair of each prototype."""
        return torch.stack([group[0] for group in self.groups(candidates, count, generator)])

    def groups(self, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
        """Cluster images and texts by k-means into `count` clusters each, and match each cluster of images with one of texts so
        that the matched clusters share as many pairs as possible. If two matched clusters share no pair, the prototype is one
        real pair: the one nearest to both centres among those that are in no prototype. If every pair is in one, because there
        are fewer distinct images or texts than clusters, it is the pair of the largest prototype farthest from its mean."""
        # Imported here so that other coresets work without loading scipy.
        from scipy.optimize import linear_sum_assignment

        assert candidates.image is not None
        assert candidates.text is not None
        image, text = (functional.normalize(features.double()) for features in (candidates.image, candidates.text))
        kept_count = max(count, len(image) - int(self.dropped * len(image)))
        kept = (image * text).sum(dim=1).argsort(descending=True, stable=True)[:kept_count].sort().values
        seed = int(generator.integers(2**32))
        image_clusters, image_centres = _k_means(image[kept].numpy(), count, seed)
        text_clusters, text_centres = _k_means(text[kept].numpy(), count, seed)
        # (count, count): the number of pairs that a cluster of images and a cluster of texts share.
        shared = np.zeros((count, count))
        np.add.at(shared, (image_clusters, text_clusters), 1)
        # For each cluster of images the matched cluster of texts.
        matched = linear_sum_assignment(shared, maximize=True)[1]
        joint = torch.cat([image, text], dim=1)[kept]
        centres = np.concatenate([image_centres, text_centres[matched]], axis=1)
        shares = [np.flatnonzero((image_clusters == cluster) & (text_clusters == matched[cluster])) for cluster in range(count)]
        groups = [_nearest_to_the_mean_first(joint, share) for share in shares]
        is_used = np.zeros(len(kept), dtype=bool)
        is_used[np.concatenate(groups)] = True
        for cluster in [number for number, group in enumerate(groups) if len(group) == 0]:
            if is_used.all():
                largest = max(range(count), key=lambda number: len(groups[number]))
                groups[cluster] = groups[largest][-1:]
                groups[largest] = _nearest_to_the_mean_first(joint, groups[largest][:-1])
                continue
            distance = (joint - torch.from_numpy(centres[cluster])).square().sum(dim=1).numpy()
            groups[cluster] = np.array([np.where(is_used, np.inf, distance).argmin()])
            is_used[groups[cluster]] = True
        return [kept[torch.from_numpy(group)] for group in groups]


def _nearest_to_the_mean_first(joint: Tensor, group: np.ndarray) -> np.ndarray:
    """The indices (n,) of rows of `joint`, in the order of the rows' distances from their mean."""
    mean = joint[group].mean(dim=0)
    return group[(joint[group] - mean).square().sum(dim=1).argsort(stable=True).numpy()]


def _k_means(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster (n,) of each of the points (n, d), and the centres (count, d)."""
    from sklearn.cluster import KMeans

    fitted = KMeans(count, n_init=1, random_state=seed).fit(points)
    return fitted.labels_, fitted.cluster_centers_
