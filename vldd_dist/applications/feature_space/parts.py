"""Divides training pairs into parts: into clusters of captions, and among clients that get a share of each cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.errors import ConfigError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.retrieval.encode import RetrievalSplit

# How often the clients are drawn again until each has enough images.
DRAWS = 1000
# The least number of images on which the pairs of a part are validated or a task is tested. Among ten, IR@10 is 100 for any
# student, and recalls of texts move in steps of ten points.
LEAST_MEASURED = 11


@dataclass(frozen=True)
class Clusters:
    """k-means clusters of the training images, by the normalised mean of the embeddings of each image's captions.

    Attributes:
        centres: (count, D) float64.
    """

    centres: Tensor

    @classmethod
    def of(cls, split: RetrievalSplit, count: int, seed: int) -> "Clusters":
        """Cluster the images of a split; `seed` is 0 to 2**32 - 1."""
        # Imported here so that descriptions can be read without scikit-learn.
        from sklearn.cluster import KMeans

        fitted = KMeans(count, n_init=4, random_state=seed).fit(_mean_captions(split).numpy())
        return cls(torch.from_numpy(fitted.cluster_centers_))

    def parts(self, split: RetrievalSplit) -> list[Tensor]:
        """For each cluster the images (n,) int64 of a split that are nearest to its centre, ascending."""
        nearest = torch.cdist(_mean_captions(split), self.centres).argmin(dim=1)
        return [(nearest == number).nonzero()[:, 0] for number in range(len(self.centres))]


def _mean_captions(split: RetrievalSplit) -> Tensor:
    """(N, D) float64, the normalised mean of the embeddings of each image's captions."""
    texts = functional.normalize(split.texts.double())
    total = torch.zeros(len(split.inputs), texts.shape[1], dtype=torch.float64)
    return functional.normalize(total.index_add_(0, split.image_of_caption, texts))


def dirichlet_clients(
    clusters: Sequence[Tensor], count: int, concentration: float, least: int, generator: np.random.Generator
) -> list[Tensor]:
    """Divide the images of the clusters among `count` clients; returns the images of each, ascending. Each cluster is divided
    in proportions drawn from a symmetric Dirichlet distribution (Hsu et al. 1909.06335). All clusters are drawn again until
    every client has at least `least` images.

    Raises:
        ConfigError: `DRAWS` draws left a client with fewer images.
    """
    for _ in range(DRAWS):
        shares: list[list[Tensor]] = [[] for _ in range(count)]
        for cluster in clusters:
            shuffled = cluster[torch.from_numpy(generator.permutation(len(cluster)))]
            ends = (generator.dirichlet([concentration] * count).cumsum() * len(cluster)).astype(int)[:-1]
            for share, images in zip(shares, shuffled.tensor_split(torch.from_numpy(ends)), strict=True):
                share.append(images)
        clients = [torch.cat(share).sort().values for share in shares]
        if min(map(len, clients)) >= least:
            return clients
    raise ConfigError(
        f"one_shot_federated: {DRAWS} draws left one of {count} clients with fewer than {least} images: lower clients or "
        "pairs, or raise the concentration"
    )


def joined(parts: Sequence[TrainingPairs]) -> TrainingPairs:
    """The pairs of several sets as one set."""
    rows = {name: torch.cat([part.rows[name] for part in parts]) for name in ("images", "texts")}
    return TrainingPairs(rows, len(rows["images"]))


def set_bytes(rows: Mapping[str, Tensor]) -> int:
    """The number of bytes of pairs with these row tensors."""
    return sum(tensor.nbytes for tensor in rows.values())
