"""Coresets: M real pairs, the baselines of every distilled set."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from vldd_dist.coresets.features import Candidates
from vldd_dist.coresets.forgetting import most_forgotten
from vldd_dist.coresets.herding import herding
from vldd_dist.coresets.k_center import k_center
from vldd_dist.coresets.random import random_pairs
from vldd_dist.errors import ConfigError

# (candidates, count, generator) -> (count,) distinct indices.
Selector = Callable[[Candidates, int, np.random.Generator], Tensor]

METHODS: dict[str, Selector] = {
    "random": random_pairs,
    "herding": herding,
    "k_center": k_center,
    "forgetting": most_forgotten,
}


def select(method: str, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
    """Indices (count,) int64 of distinct training pairs, by one of `METHODS`.

    Raises:
        ConfigError: more pairs asked for than there are.
    """
    if count > candidates.pictures:
        raise ConfigError(f"distill.pairs ({count}) is more than the training pictures ({candidates.pictures}): lower it")
    return METHODS[method](candidates, count, generator)
