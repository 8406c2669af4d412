"""Blended features: in a student's step each pair's features are mixed with those of another pair of its minibatch (RepBlend,
Zhang et al. 2505.14705), which keeps the features of one modality apart from each other."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field
from torch import Tensor, from_numpy

from vldd_dist.config.base import Rate, Section
from vldd_dist.seeding import numpy_generator

# Of all rows of a minibatch (B, ...) as many mixed ones.
Mix = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Blend:
    """The mixes of one outer step: a function of the seed, the inner step and the number of rows alone, so that every pass over
    an inner step, and every rank, mixes alike.

    Attributes:
        beta: see `Blending`.
        seed: of the outer step.
    """

    beta: float
    seed: int

    def at(self, step: int) -> Mix:
        """Of an inner step."""

        def mix(rows: Tensor) -> Tensor:
            generator = numpy_generator(self.seed, "blend", step)
            weight = generator.beta(self.beta, self.beta)
            order = from_numpy(generator.permutation(len(rows))).to(rows.device)
            return weight * rows + (1 - weight) * rows.index_select(0, order)

        return mix


class Blending(Section):
    """z <- lambda z + (1 - lambda) z_pi for the features z (B, F) of the frozen image backbone and the texts (B, D) alike,
    before the heads: one lambda ~ Beta(beta, beta) and one permutation pi for an inner step. The loss's rows are not mixed."""

    beta: Rate = Field(1.0, description="Both parameters of the Beta distribution; 1 is uniform.")

    def of_step(self, seed: int) -> Blend:
        """The mixes of an outer step with this seed."""
        return Blend(self.beta, seed)
