"""What an application is given: real pairs as features of a frozen tower, how students are trained, and the distilled set."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vldd_dist.applications.students import PairNumbers, Students, first_captions
from vldd_dist.coresets.base import Coreset, groups
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import ConfigError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.retrieval.encode import RetrievalSplit


@dataclass(frozen=True)
class DistilledPairs:
    """Attributes:
    pairs: M, `images` being features (M, F).
    start: the training pairs they began as; none for a start from noise.
    """

    pairs: TrainingPairs
    start: PairNumbers | None = None


@dataclass(frozen=True)
class Inputs:
    """Attributes:
    train, validation, test: features (N, F) of all images, embeddings (C, D) of all captions.
    seeds: of students, and of what is drawn beside them: whatever has a spread is measured once for each.
    seed: of what is the same for all of them.
    distilled: for applications that need it.
    count: M, of the distilled pairs and of the real ones they are compared with.
    report: (done, of how many); called now and then.
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
        """Training pairs, for students."""
        return self.students.pairs(self.train, numbers)

    def distilled_pairs(self) -> DistilledPairs:
        """Of an application whose `needs` names them."""
        assert self.distilled is not None, "an application took distilled pairs that its `needs` does not name"
        return self.distilled


def one_caption_each(split: RetrievalSplit, images: Tensor, generator: np.random.Generator) -> PairNumbers:
    """Images (n,) of a split, each with one of its captions, drawn."""
    first = first_captions(split)
    counts = (first[images + 1] - first[images]).numpy()
    return PairNumbers(images, first[images] + torch.from_numpy(generator.integers(counts)))


def part_of(split: RetrievalSplit, images: Tensor) -> RetrievalSplit:
    """The split of these images (n,), ascending, and all of their captions."""
    place = torch.full((len(split.inputs),), -1)
    place[images] = torch.arange(len(images))
    owner = place[split.image_of_caption]
    return RetrievalSplit(split.inputs[images], split.texts[owner >= 0], owner[owner >= 0])


def select(method: Coreset, split: RetrievalSplit, count: int, generator: np.random.Generator) -> PairNumbers:
    """A coreset of a split by its images' features and one embedding each in place of an expert's, so that no expert is needed.

    Raises:
        ConfigError: more pairs are asked for than there are images.
    """
    if count > len(split.inputs):
        raise ConfigError(f"{count} pairs are more than the {len(split.inputs)} training images of a part: ask for fewer")
    numbers = one_caption_each(split, torch.arange(len(split.inputs)), generator)
    candidates = Candidates(len(split.inputs), split.inputs, split.texts[numbers.captions], caption=numbers.captions)
    chosen = torch.stack([group[0] for group in groups(method, candidates, count, generator)])
    return PairNumbers(chosen, numbers.captions[chosen])
