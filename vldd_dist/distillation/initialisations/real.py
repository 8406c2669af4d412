"""Randomly drawn real pairs."""

from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start, start_from_real
from vldd_dist.errors import ConfigError
from vldd_dist.seeding import numpy_generator


class RealPairs(Initialisation):
    """M distinct training images drawn at random, and a random caption of each."""

    name: str = "real"

    def start(self, context: RunContext) -> Start:
        """Raises ConfigError when there are fewer training images than pairs."""
        indices = random_indices(context.dataset.splits["train"].images, context.total, context.seed)
        return start_from_real(context, indices, None)


def random_indices(images: int, pairs: int, seed: int) -> list[int]:
    """Indices of M distinct images of N, drawn from the seed. Raises ConfigError if M is more than N."""
    if pairs > images:
        raise ConfigError(f"distill.pairs ({pairs}) is more than the training images ({images}): lower it")
    return numpy_generator(seed, "start", pairs).choice(images, pairs, replace=False).tolist()
