"""The interface of a coreset method."""

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
        in_joint_space: whether it compares images with texts, so that their features must be those of an expert's joint space.
        remark: a remark that tables print about its pairs if they are not real pairs.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    in_joint_space: ClassVar[bool] = False
    remark: ClassVar[str | None] = None

    @abstractmethod
    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) int64, distinct indices of training pairs; `count` is at most the number of candidates."""

    def groups(self, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
        """For each of `count` pairs the indices (n,) int64 of the training pairs that are averaged: the pixels of their
        images and the embeddings of their captions. Where keys and captions are shown, those of the first are. n may be above
        1 only for a method with a `remark`."""
        return list(self.select(candidates, count, generator).split(1))


def groups(method: Coreset, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
    """Call `Coreset.groups` of a method.

    Raises:
        ConfigError: `count` is more than the number of candidates.
    """
    if count > candidates.images:
        raise ConfigError(f"distill.pairs ({count}) is more than the training images ({candidates.images}): lower it")
    return method.groups(candidates, count, generator)
