"""Facility location: pairs such that every training pair is similar to one of them (Wei, Iyer and Bilmes 2015)."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates

# Columns of the similarity matrix, N float64 each, that are computed at once: the first and the largest number in a round. Most
# rounds need few columns. In a product that makes many, each takes about a third of the time.
FIRST_COLUMNS, MOST_COLUMNS = 32, 256


class FacilityLocation(Coreset):
    """Pairs such that every training pair is similar to one of them."""

    needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices: greedy maximisation of sum_i max_(j chosen) s_ij, where s_ij is the inner product of the
        concatenated image and text features.

        The gain of a pair can only fall as others are chosen, so its gain in an earlier round is an upper bound. Only the gains
        of pairs whose bound is above the best gain of this round are computed again (Minoux 1978). The choice is the same as
        with the full similarity matrix. The second round computes nearly all gains, because the bounds of the first are far
        above them: O(N^2 d), and for many pairs several times as much.
        """
        features = candidates.joint().double()
        # The smallest possible similarity is -2, for opposite image and text features.
        nearest = torch.full((len(features),), -2.0, dtype=torch.float64)
        gains = features @ features.sum(dim=0) + 2 * len(features)
        chosen = []
        for _ in range(count):
            # Which gains are those of this round.
            fresh = torch.zeros(len(features), dtype=torch.bool)
            columns = FIRST_COLUMNS
            while not fresh[best := int(gains.argmax())]:
                stale = gains.masked_fill(fresh, -torch.inf).topk(min(columns, len(features))).indices
                closer = (features @ features[stale].T).sub_(nearest[:, None]).clamp_(min=0)
                # The minimum keeps the gains of chosen pairs at -inf.
                gains[stale] = closer.sum(dim=0).minimum(gains[stale])
                fresh[stale] = True
                columns = min(2 * columns, MOST_COLUMNS)
            chosen.append(best)
            nearest = nearest.maximum(features @ features[best])
            gains[best] = -torch.inf
        return torch.tensor(chosen)
