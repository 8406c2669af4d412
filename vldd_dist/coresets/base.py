"""The interface of a coreset method."""

import reprlib
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vldd_dist.config.base import Plugin
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import ConfigError


class Coreset(Plugin):
    """A method of selecting training pairs, and its settings.

    Attributes:
        needs: what it reads of the candidates beside their number: "expert_features" (joint features by an expert),
            "embeddings" (caption embeddings by the text encoder), "forgetting" (an expert's forgetting counts).
        in_joint_space: whether it compares images with texts, so that their features must be those of an expert's joint space.
        averages: whether a pair may be the mean of several real ones: tables say so, and never mark it as the best coreset.
    """

    known_needs: ClassVar[frozenset[str]] = frozenset({"expert_features", "embeddings", "forgetting"})
    in_joint_space: ClassVar[bool] = False
    averages: ClassVar[bool] = False

    @abstractmethod
    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        """(count,) int64, distinct indices of training pairs; `count` is at most the number of candidates."""

    def groups(self, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
        """For each of `count` pairs the indices (n,) int64 of the training pairs that are averaged: the pixels of their
        images and the embeddings of their captions. Where keys and captions are shown, those of the first are. n may be above
        1 only for a method that `averages`."""
        return [index.reshape(1) for index in self.select(candidates, count, generator)]


def groups(method: Coreset, candidates: Candidates, count: int, generator: np.random.Generator) -> list[Tensor]:
    """Call `Coreset.groups` of a method.

    Raises:
        ConfigError: `count` is more than the number of candidates.
        AssertionError: the method chose other than `count` distinct candidates.
    """
    if count > candidates.images:
        raise ConfigError(f"distill.pairs ({count}) is more than the training images ({candidates.images}): lower it")
    found = method.groups(candidates, count, generator)
    # A set of another size would be evaluated, and stand in tables, as one of `count` pairs.
    if not _are_pairs(found, count, candidates.images, several=method.averages):
        raise AssertionError(
            f"the coreset {method.name} must choose {count} distinct ones of the {candidates.images} training pairs, by int64 "
            f"indices; it chose {len(found)}: {reprlib.repr(found)}"
        )
    return found


def _are_pairs(found: list[Tensor], count: int, images: int, *, several: bool) -> bool:
    """Whether these are `count` groups of indices of training images, each of another first image.

    Args:
        several: whether a group may have several images.
    """
    if len(found) != count or not all(isinstance(group, Tensor) and group.dtype == torch.int64 for group in found):
        return False
    if not all(group.ndim == 1 and (len(group) == 1 or (several and len(group) > 1)) for group in found):
        return False
    indices = torch.cat(found)
    return bool((indices >= 0).all() and (indices < images).all()) and len({int(group[0]) for group in found}) == count
