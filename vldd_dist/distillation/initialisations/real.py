"""Randomly drawn real pairs."""

from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start, free_indices, start_from_real
from vldd_dist.seeding import numpy_generator


class RandomRealPairs(Initialisation):
    """M distinct training images drawn at random, and a random caption of each."""

    name: str = "real"

    def start(self, context: DistillationContext) -> Start:
        """Raises ConfigError when there are fewer training images than pairs."""
        indices = random_indices(context.dataset.splits["train"].images, context.total, context.seed, context.taken)
        return start_from_real(context, indices, None)


def random_indices(images: int, pairs: int, seed: int, taken: frozenset[int] = frozenset()) -> list[int]:
    """Indices of M distinct images of N that are not taken, drawn from the seed. Raises ConfigError if there are fewer."""
    free = free_indices(images, pairs, taken)
    return [free[index] for index in numpy_generator(seed, "start", pairs).choice(len(free), pairs, replace=False)]
