"""What an outer step works on: an expert, a start, the inner minibatches, and who computes which of their pairs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vldd_dist.config.distillation import DistillSettings
from vldd_dist.seeding import numpy_generator
from vldd_dist.sharding.ranks import rows_of


@dataclass(frozen=True)
class Share:
    """A rank's part of the inner minibatches.

    Attributes:
        used: (U,) int64, the pairs in any of them, ascending: of the others the rank makes nothing.
        places: for each inner step its pairs (b,) as indices into `used`.
    """

    used: Tensor
    places: list[Tensor]


@dataclass(frozen=True)
class Draw:
    """A function of (seed, outer step) alone, whatever the number of ranks.

    Attributes:
        expert: index of the expert.
        start: epoch of the snapshot the student starts from.
        batches: for each inner step its pairs (B,) int64, distinct, ascending.
    """

    expert: int
    start: int
    batches: list[Tensor]

    def share(self, rank: int, world: int) -> Share:
        """A rank's part: of each minibatch an equal run. Batches ascend and each rank owns a run of the pairs, so that most
        pairs are computed where they lie."""
        parts = [batch[slice(*rows_of(rank, world, len(batch)))] for batch in self.batches]
        used = torch.unique(torch.cat(parts))
        return Share(used, [torch.searchsorted(used, part) for part in parts])


def inner_batch_size(settings: DistillSettings, pairs: int) -> int:
    """Pairs an inner step: all of them where the description says none or more than there are."""
    return min(settings.batch_size or pairs, pairs)


def expert_pool(settings: DistillSettings, experts: int, outer_step: int) -> int:
    """From how many of the experts, the first ones, this outer step draws: of all, or `min_experts` at first and one more
    every so often until half of the outer steps are done. Not a matter of when they were trained: a rerun draws alike."""
    if settings.min_experts is None:
        return experts
    return min(experts, settings.min_experts + 2 * outer_step * (experts - settings.min_experts) // settings.outer_steps)


def draw(settings: DistillSettings, experts: int, pairs: int, seed: int, outer_step: int) -> Draw:
    """Inner batches run through permutations of all pairs, each cut into whole batches; what remains of one when fewer than a
    batch do is left out, for a batch across two permutations could hold a pair twice, and a pair is no negative of itself."""
    generator = numpy_generator(seed, "outer", outer_step)
    expert = int(generator.integers(expert_pool(settings, experts, outer_step)))
    start = int(generator.integers(settings.max_start_epoch + 1))
    size = inner_batch_size(settings, pairs)
    of_one = pairs // size
    permutations = [generator.permutation(pairs)[: of_one * size] for _ in range(math.ceil(settings.inner_steps / of_one))]
    batches = torch.from_numpy(np.concatenate(permutations)).split(size)[: settings.inner_steps]
    return Draw(expert, start, [batch.sort().values for batch in batches])
