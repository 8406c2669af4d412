"""What an outer step of trajectory matching works on: an expert, a start, the inner minibatches, and which rank computes which
of their pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vldd_dist.seeding import numpy_generator
from vldd_dist.sharding.ranks import rows_of


@dataclass(frozen=True)
class Part:
    """A rank's rows of the inner minibatches.

    Attributes:
        used: (U,) int64, the pairs in any of them, ascending: of the others the rank computes nothing.
        places: for each inner step its pairs (b,) as indices into `used`.
    """

    used: Tensor
    places: list[Tensor]


@dataclass(frozen=True)
class Draw:
    """A function of (seed, outer step) alone, whatever the number of ranks.

    Attributes:
        expert: index of the expert.
        starts: epochs of the expert's image and text tower that the student starts from.
        batches: for each inner step its pairs (B,) int64, distinct, ascending.
    """

    expert: int
    starts: tuple[int, int]
    batches: list[Tensor]

    def part(self, rank: int, world_size: int) -> Part:
        """A rank's rows of the minibatches."""
        return part_of(self.batches, rank, world_size)


def part_of(batches: Sequence[Tensor], rank: int, world_size: int) -> Part:
    """A rank's rows: of each minibatch an equal run. Batches ascend and each rank owns a run of the pairs, so that most pairs
    are computed where they lie."""
    runs = [batch[slice(*rows_of(rank, world_size, len(batch)))] for batch in batches]
    used = torch.unique(torch.cat(runs))
    return Part(used, [torch.searchsorted(used, run) for run in runs])


def inner_batch_size(batch_size: int | None, pairs: int) -> int:
    """Pairs an inner step: all of them where the description says none or more than there are."""
    return min(batch_size or pairs, pairs)


@dataclass(frozen=True)
class Sampler:
    """Draws for each outer step.

    Attributes:
        pairs: M, over all ranks.
        experts: how many there will be.
        batch_size: pairs an inner step.
        starts: what starts are drawn from: epochs of the image and of the text tower.
        min_experts: how many experts the first outer step draws from; none: all.
        outer_steps: of the whole run.
    """

    pairs: int
    experts: int
    batch_size: int
    inner_steps: int
    starts: Sequence[tuple[int, int]]
    min_experts: int | None
    outer_steps: int
    seed: int

    def pool(self, outer_step: int) -> int:
        """From how many of the experts, the first ones, this outer step draws: of all, or `min_experts` at first and one more
        every so often until half of the outer steps are done. Not a matter of when they were trained: a rerun draws alike."""
        if self.min_experts is None:
            return self.experts
        later = self.experts - self.min_experts
        return min(self.experts, self.min_experts + 2 * outer_step * later // self.outer_steps)

    def draw(self, outer_step: int) -> Draw:
        """Expert, starts and minibatches of an outer step."""
        generator = numpy_generator(self.seed, "outer", outer_step)
        expert = int(generator.integers(self.pool(outer_step)))
        starts = self.starts[int(generator.integers(len(self.starts)))]
        return Draw(expert, starts, draw_batches(generator, self.pairs, self.batch_size, self.inner_steps))


def draw_batches(generator: np.random.Generator, pairs: int, batch_size: int, steps: int) -> list[Tensor]:
    """Of each inner step its pairs (B,) int64, distinct, ascending. They run through permutations of all pairs, each cut into
    whole batches; what remains of one when fewer than a batch do is left out, for a batch across two permutations could hold a
    pair twice, and a pair is no negative of itself."""
    of_one = pairs // batch_size
    used = of_one * batch_size
    permutations = [generator.permutation(pairs)[:used] for _ in range(math.ceil(steps / of_one))]
    batches = torch.from_numpy(np.concatenate(permutations)).split(batch_size)[:steps]
    return [batch.sort().values for batch in batches]
