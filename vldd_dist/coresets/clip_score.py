"""CLIP score (Hessel et al. 2104.08718): pairs whose image and text agree best."""

from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional

from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates


class ClipScore(Coreset):
    """Pairs whose image and caption have the most similar features under an expert."""

    needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})
    in_joint_space: ClassVar[bool] = True

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) indices of the pairs with the largest cosine of their joint features; of equal ones the first."""
        assert candidates.image is not None
        assert candidates.text is not None
        cosines = functional.cosine_similarity(candidates.image.double(), candidates.text.double())
        return cosines.argsort(descending=True, stable=True)[:count]
