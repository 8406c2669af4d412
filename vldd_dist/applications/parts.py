"""Parts of the training pairs: clusters of captions, and clients that have some of each cluster."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.errors import ConfigError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.retrieval.encode import RetrievalSplit

# Draws of clients until each has enough images.
DRAWS = 1000


@dataclass(frozen=True)
class Clusters:
    """k-means of the training images by the mean embedding, of norm one, of each one's captions."""

    centres: Tensor

    @classmethod
    def of(cls, split: RetrievalSplit, count: int, seed: int) -> "Clusters":
        """Args:
        seed: 0 to 2**32 - 1.
        """
        # Here, so that a description is read without scikit-learn.
        from sklearn.cluster import KMeans

        found = KMeans(count, n_init=4, random_state=seed).fit(_mean_captions(split).numpy())
        return cls(torch.from_numpy(found.cluster_centers_))

    def parts(self, split: RetrievalSplit) -> list[Tensor]:
        """Of each cluster the images (n,) int64 of a split that are nearest to its centre, ascending."""
        nearest = torch.cdist(_mean_captions(split), self.centres).argmin(dim=1)
        return [(nearest == number).nonzero()[:, 0] for number in range(len(self.centres))]


def _mean_captions(split: RetrievalSplit) -> Tensor:
    """(N, D) float64."""
    texts = functional.normalize(split.texts.double())
    total = torch.zeros(len(split.inputs), texts.shape[1], dtype=torch.float64)
    return functional.normalize(total.index_add_(0, split.image_of_caption, texts))


def dirichlet_clients(
    clusters: Sequence[Tensor], count: int, concentration: float, least: int, generator: np.random.Generator
) -> list[Tensor]:
    """Images of each of `count` clients, ascending: each cluster is dealt out in proportions drawn from a symmetric Dirichlet
    distribution (Hsu et al. 1909.06335), anew until every client has `least` images.

    Raises:
        ConfigError: none of many draws gives each so many.
    """
    for _ in range(DRAWS):
        dealt: list[list[Tensor]] = [[] for _ in range(count)]
        for cluster in clusters:
            shuffled = cluster[torch.from_numpy(generator.permutation(len(cluster)))]
            ends = (generator.dirichlet([concentration] * count).cumsum() * len(cluster)).astype(int)[:-1]
            for client, images in zip(dealt, shuffled.tensor_split(torch.from_numpy(ends)), strict=True):
                client.append(images)
        clients = [torch.cat(images).sort().values for images in dealt]
        if min(map(len, clients)) >= least:
            return clients
    raise ConfigError(
        f"one_shot_federated: {DRAWS} draws left one of {count} clients with fewer than {least} images: lower clients or "
        "pairs, or raise the concentration"
    )


def joined(parts: Sequence[TrainingPairs]) -> TrainingPairs:
    """Pairs of several sets as one."""
    rows = {name: torch.cat([part.rows[name] for part in parts]) for name in ("images", "texts")}
    return TrainingPairs(rows, len(rows["images"]))


def set_bytes(pairs: TrainingPairs) -> int:
    """What features and embeddings of the pairs take."""
    return pairs.rows["images"].nbytes + pairs.rows["texts"].nbytes
