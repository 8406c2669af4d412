"""Facility location: pairs of which each other pair has a similar one (Wei, Iyer and Bilmes 2015)."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates

# Columns of the matrix of similarities in memory at once, of N float64 each.
COLUMNS = 32


class FacilityLocation(Coreset):
    """Pairs of which each other pair has a similar one."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """Greedy maximisation of sum_i max_(j chosen) s_ij, s the inner product of image and text features side by side.

        The gain of a pair only falls as others are chosen, so gains of earlier rounds are upper bounds, and only pairs whose
        bound is above the best gain of this round are computed again (Minoux 1978): the choice is that of the whole matrix.
        """
        features = candidates.joint().double()
        # No similarity is below -2, that of opposite images and texts.
        nearest = torch.full((len(features),), -2.0, dtype=torch.float64)
        gains = features @ features.sum(dim=0) + 2 * len(features)
        chosen = []
        for _ in range(count):
            fresh = torch.zeros(len(features), dtype=torch.bool)
            while not fresh[best := int(gains.argmax())]:
                stale = gains.masked_fill(fresh, -torch.inf).topk(min(COLUMNS, len(features))).indices
                columns = features @ features[stale].T
                # Chosen pairs stay out.
                gains[stale] = (columns - nearest[:, None]).clamp(min=0).sum(dim=0).minimum(gains[stale])
                fresh[stale] = True
            chosen.append(best)
            nearest = nearest.maximum(features @ features[best])
            gains[best] = -torch.inf
        return torch.tensor(chosen)
