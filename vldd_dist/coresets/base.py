"""What a coreset method is."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from torch import Tensor

from vldd_dist.config.base import Plugin
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import ConfigError


class Coreset(Plugin):
    """A method of selecting training pairs, and its settings.

    Attributes:
        needs: what it reads of the candidates beside their number: "features" (joint features by an expert), "forgetting"
            (an expert's forgetting counts).
        remark: what tables say of its pairs, where they are not real pairs.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    remark: ClassVar[str | None] = None

    @abstractmethod
    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) int64, distinct indices of training pairs; count is at most their number."""

    def groups(self, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
        """For each pair the training pairs (n,) int64 that it is the mean of, its images' pixels and its captions' embeddings.
        The first of them stands for the pair where keys and captions are shown. Only with a remark n may be above 1."""
        return list(self.select(candidates, count, generator).split(1))


def groups(method: Coreset, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
    """`Coreset.groups` of a method.

    Raises:
        ConfigError: more pairs are asked for than there are.
    """
    if count > candidates.images:
        raise ConfigError(f"distill.pairs ({count}) is more than the training images ({candidates.images}): lower it")
    return method.groups(candidates, count, generator)
