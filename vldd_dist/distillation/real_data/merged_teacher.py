"""A teacher between two states of an expert (MDM, 2605.23482, after Model Stock, Jang et al. 2403.19522)."""

import torch
from torch import Tensor


def between(start: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """w = w0 + r/2 ((w1 + w2)/2 - w0), r = 2c/(1 + c), c the cosine of w1 - w0 and w2 - w0, of one parameter. States that point
    away from each other agree on nothing: c is then 0, as for a parameter that has not moved."""
    ways = (first - start).flatten(), (second - start).flatten()
    cosine = torch.cosine_similarity(*ways, dim=0).clamp(0, 1)
    ratio = 2 * cosine / (1 + cosine)
    return start + ratio / 2 * ((first + second) / 2 - start)
