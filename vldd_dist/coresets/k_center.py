"""k-center (Sener and Savarese 1708.00489): pairs that leave no other pair far away."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates


class KCenter(Coreset):
    """Pairs that leave no other pair far away."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """Farthest-first from a random start: at most twice the optimal radius. O(count N d)."""
        features = candidates.joint().double()
        chosen = [int(generator.integers(len(features)))]
        nearest = (features - features[chosen[0]]).square().sum(dim=1)
        while len(chosen) < count:
            # Chosen pairs are at distance 0; marking them keeps duplicates of a chosen pair from being it.
            nearest[chosen[-1]] = -1
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(dim=1))
        return torch.tensor(chosen)
