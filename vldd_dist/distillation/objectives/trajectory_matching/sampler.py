"""What an outer step of trajectory matching draws: an expert, a start, the inner minibatches."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vldd_dist.distillation.inner_batches import draw_batches
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs
from vldd_dist.seeding import numpy_generator


@dataclass(frozen=True)
class Draw:
    """The draws of one outer step. They depend on the seed and the step only, not on the number of ranks.

    Attributes:
        expert: index of the expert.
        starts: epochs of the expert from which the student's image and text tower start.
        batches: for each inner step the indices (B,) int64 of its pairs, distinct and ascending.
    """

    expert: int
    starts: Epochs
    batches: list[Tensor]


@dataclass(frozen=True)
class Sampler:
    """Draws for each outer step.

    Attributes:
        pairs: M, over all ranks.
        experts: number of experts, including those not trained yet.
        batch_size: pairs of an inner step.
        starts: the starts to draw from: epochs of the image and of the text tower.
        min_experts: how many experts the first outer step draws from; None: all.
        outer_steps: number of outer steps of the whole distillation.
    """

    pairs: int
    experts: int
    batch_size: int
    inner_steps: int
    starts: Sequence[Epochs]
    min_experts: int | None
    outer_steps: int
    seed: int

    def pool(self, outer_step: int) -> int:
        """The number n such that this outer step draws from the first n experts. Without `min_experts` it is all of them;
        otherwise n grows evenly from `min_experts` to all over the first half of the outer steps. It does not depend on when
        the experts were trained, so that a rerun makes the same draws."""
        if self.min_experts is None:
            return self.experts
        later = self.experts - self.min_experts
        return min(self.experts, self.min_experts + 2 * outer_step * later // self.outer_steps)

    def draw(self, outer_step: int) -> Draw:
        """The draws of an outer step."""
        generator = numpy_generator(self.seed, "outer", outer_step)
        expert = int(generator.integers(self.pool(outer_step)))
        starts = self.starts[int(generator.integers(len(self.starts)))]
        return Draw(expert, starts, draw_batches(generator, self.pairs, self.batch_size, self.inner_steps))
