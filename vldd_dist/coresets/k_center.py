"""k-center (Sener and Savarese 1708.00489): pairs such that no training pair is far from all of them."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates


class KCenter(Coreset):
    """Pairs such that no training pair is far from all of them."""

    needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices: farthest-first traversal from a random start, whose radius is at most twice the optimal one.
        O(count N d)."""
        features = candidates.joint().double()
        squares = features.square().sum(dim=1)
        chosen = [int(generator.integers(len(features)))]
        nearest = torch.full_like(squares, torch.inf)
        while len(chosen) < count:
            # |f - c|^2 by one matrix-vector product. The differences f - c would be a copy of all features for each pair.
            distance = squares + squares[chosen[-1]] - 2 * (features @ features[chosen[-1]])
            # Rounding may make the distance of a duplicate negative.
            nearest = nearest.minimum(distance.clamp(min=0))
            # Chosen pairs get -1. If only duplicates of them are left, at distance 0, argmax must not choose a pair twice.
            nearest[chosen[-1]] = -1
            chosen.append(int(nearest.argmax()))
        return torch.tensor(chosen)
