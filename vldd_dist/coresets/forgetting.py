"""Forgetting (Toneva et al. 1812.05159): pairs that an expert learned and forgot most often."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates


class Forgetting(Coreset):
    """Pairs that an expert learned and forgot most often."""

    needs: ClassVar[frozenset[str]] = frozenset({"forgetting"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices of the pairs with the most forgetting events. Pairs that were never learned come before all
        others, as in the paper; ties are broken at random."""
        assert candidates.events is not None
        assert candidates.ever_learned is not None
        events = torch.where(candidates.ever_learned, candidates.events, candidates.events.max() + 1)
        shuffled = torch.from_numpy(generator.permutation(len(events)))
        return shuffled[events[shuffled].argsort(descending=True, stable=True)[:count]]
