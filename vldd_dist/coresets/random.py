"""Randomly drawn pairs."""

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates


class RandomPairs(Coreset):
    """Pairs drawn at random; each subset is equally likely."""

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices, drawn without replacement."""
        return torch.from_numpy(generator.choice(candidates.images, count, replace=False))
