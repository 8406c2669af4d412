"""The pairs of each inner step."""

import math

import numpy as np
import torch
from torch import Tensor


def inner_batch_size(batch_size: int | None, pairs: int) -> int:
    """Pairs of an inner step: `batch_size`, or all pairs if it is None or larger than their number."""
    return min(batch_size or pairs, pairs)


def draw_batches(generator: np.random.Generator, pairs: int, batch_size: int, steps: int) -> list[Tensor]:
    """For each inner step the indices (B,) int64 of its pairs, distinct and ascending.

    The batches are cut from permutations of all pairs. The rest of a permutation that does not fill a batch is dropped, because
    a batch across two permutations could hold a pair twice, and a pair must not be a negative of itself.
    """
    batches_each = pairs // batch_size
    used = batches_each * batch_size
    permutations = [generator.permutation(pairs)[:used] for _ in range(math.ceil(steps / batches_each))]
    batches = torch.from_numpy(np.concatenate(permutations)).split(batch_size)[:steps]
    return [batch.sort().values for batch in batches]
