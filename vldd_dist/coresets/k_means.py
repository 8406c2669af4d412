"""k-means: the pairs nearest to the centres of clusters of an expert's joint features (medoids)."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.data.medoids import medoids


class KMeans(Coreset):
    """The pairs nearest to the k-means centres of the concatenated image and text features."""

    needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices of the pairs nearest to the centres."""
        return torch.tensor(medoids(candidates.joint(), count, int(generator.integers(2**32))))
