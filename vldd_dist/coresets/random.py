"""Pairs drawn at random."""

import numpy as np
import torch
from torch import Tensor

from vldd_dist.coresets.features import Candidates


def random_pairs(candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
    """Without replacement, each subset equally likely."""
    return torch.from_numpy(generator.choice(candidates.pictures, count, replace=False))
