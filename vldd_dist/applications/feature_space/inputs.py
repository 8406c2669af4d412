"""The inputs of an application: real pairs as features of a frozen backbone, how students are trained, the distilled pairs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vldd_dist.applications.feature_space.students import PairNumbers, Students, first_captions
from vldd_dist.coresets.base import Coreset, groups
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import ConfigError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.retrieval.encode import RetrievalSplit


@dataclass(frozen=True)
class DistilledPairs:
    """The distilled pairs of an experiment.

    Attributes:
        pairs: M pairs, with features (M, F) as their `images`.
        start: the training pairs from which their distillation started; None if images, texts or both started from noise.
        half_real: whether only the images, or only the texts, started from real ones.
    """

    pairs: TrainingPairs
    start: PairNumbers | None = None
    half_real: bool = False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of a run of an application.

    Attributes:
        train, validation, test: features (N, F) of all images and embeddings (C, D) of all captions of a split.
        students: makes and trains the students.
        seeds: seeds of the students and of the other random draws; each figure is measured once for each seed.
        seed: seed of the draws that are the same for all `seeds`.
        distilled: the distilled pairs, for an application whose `needs` names them.
        count: M, the number of distilled pairs, and of the real pairs that they are compared with.
        report: reports progress: (done, total).
    """

    train: RetrievalSplit
    validation: RetrievalSplit
    test: RetrievalSplit
    students: Students
    seeds: list[int]
    seed: int
    distilled: DistilledPairs | None = None
    count: int = 0
    report: Callable[[int, int], None] = field(default=lambda done, total: None)

    def pairs(self, numbers: PairNumbers) -> TrainingPairs:
        """The training pairs with these numbers, to train students on."""
        return self.students.pairs(self.train, numbers)

    def distilled_pairs(self) -> DistilledPairs:
        """The distilled pairs; only for an application whose `needs` names them."""
        assert self.distilled is not None, "an application used distilled pairs that its `needs` does not name"
        return self.distilled


def one_caption_each(split: RetrievalSplit, generator: np.random.Generator, images: Tensor | None = None) -> PairNumbers:
    """The images (n,) of a split, None: all, each with one of its captions drawn at random."""
    first = first_captions(split)
    images = torch.arange(len(split.inputs)) if images is None else images
    counts = (first[images + 1] - first[images]).numpy()
    return PairNumbers(images, first[images] + torch.from_numpy(generator.integers(counts)))


def subset(split: RetrievalSplit, images: Tensor) -> RetrievalSplit:
    """The subset of a split with only these images (n,), in ascending order, and all of their captions."""
    # For each image its index in the subset, or -1; then the same for each caption.
    new_index = torch.full((len(split.inputs),), -1)
    new_index[images] = torch.arange(len(images))
    owner = new_index[split.image_of_caption]
    return RetrievalSplit(split.inputs[images], split.texts[owner >= 0], owner[owner >= 0])


def select(method: Coreset, split: RetrievalSplit, count: int, generator: np.random.Generator) -> PairNumbers:
    """Select a coreset of a split. The method gets the features of each image and the embedding of one of its captions in place
    of an expert's joint features, so that no expert is needed.

    Raises:
        ConfigError: more pairs are asked for than there are images.
    """
    if count > len(split.inputs):
        raise ConfigError(f"{count} pairs are more than the {len(split.inputs)} training images of a part: ask for fewer")
    numbers = one_caption_each(split, generator)
    candidates = Candidates(len(split.inputs), split.inputs, split.texts[numbers.captions], caption=numbers.captions)
    chosen = torch.stack([group[0] for group in groups(method, candidates, count, generator)])
    return PairNumbers(chosen, numbers.captions[chosen])
