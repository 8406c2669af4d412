"""Blended features: each step of the student mixes the features of each pair with those of another pair of its minibatch
(RepBlend, Zhang et al. 2505.14705), which keeps the features within one modality from collapsing."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field, PositiveFloat
from torch import Tensor, from_numpy

from vldd_dist.config.base import Section
from vldd_dist.seeding import numpy_generator

# All rows of a minibatch (B, ...) -> the mixed rows (B, ...).
Mix = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Blend:
    """The mixing of one outer step. It depends only on the seed, the inner step and the number of rows, so that every pass over
    an inner step, and every rank, mixes in the same way.

    Attributes:
        beta: see `Blending`.
        seed: seed of the outer step.
    """

    beta: float
    seed: int

    def at(self, step: int) -> Mix:
        """The mixing function of an inner step."""

        def mix(rows: Tensor) -> Tensor:
            generator = numpy_generator(self.seed, "blend", step)
            weight = generator.beta(self.beta, self.beta)
            order = from_numpy(generator.permutation(len(rows))).to(rows.device)
            return weight * rows + (1 - weight) * rows.index_select(0, order)

        return mix


class Blending(Section):
    """z <- lambda z + (1 - lambda) z_pi, before the heads, both for the features z (B, F) of the frozen image backbone and for
    the texts z (B, D). Each inner step draws one lambda ~ Beta(beta, beta) and one permutation pi. The loss's row tensors are
    not mixed."""

    beta: PositiveFloat = Field(1.0, description="Both parameters of the Beta distribution; 1 is uniform.")

    def of_step(self, seed: int) -> Blend:
        """The mixing of the outer step that has this seed."""
        return Blend(self.beta, seed)
