"""Herding (Welling 2009): pairs whose running mean follows the mean of all."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates


class Herding(Coreset):
    """Pairs whose running mean follows the mean of all."""

    needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices. Greedy: choose the pair that brings the mean feature of the chosen pairs closest to the mean of
        all N. O(count N d)."""
        features = candidates.joint().double()
        mean, squares = features.mean(dim=0), features.square().sum(dim=1)
        total = torch.zeros_like(mean)
        is_chosen = torch.zeros(len(features), dtype=torch.bool)
        chosen = []
        for size in range(1, count + 1):
            # |mean - (total + f) / size|^2, without the terms that are the same for all f.
            distance = squares / size**2 - 2 * (features @ (mean - total / size)) / size
            index = int(distance.masked_fill(is_chosen, torch.inf).argmin())
            chosen.append(index)
            is_chosen[index] = True
            total += features[index]
        return torch.tensor(chosen)
