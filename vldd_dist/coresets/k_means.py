"""k-means medoids: pairs in the middle of each cluster of an expert's joint features."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.data.medoids import medoids


class KMeans(Coreset):
    """Pairs nearest to the centres of k-means on image and text features side by side."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """One pair for each of `count` centres."""
        return torch.tensor(medoids(candidates.joint(), count, int(generator.integers(2**32))))
