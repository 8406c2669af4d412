"""Merges two states of an expert into a teacher (MDM, 2605.23482, after Model Stock, Jang et al. 2403.19522)."""

import torch
from torch import Tensor


def merged_teacher(start: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """For one parameter, w = w0 + r/2 ((w1 + w2)/2 - w0) with r = 2c/(1 + c); c is the cosine between the movements w1 - w0 and
    w2 - w0. c is 0 if the cosine is negative, so that opposite movements cancel, and for a parameter that has not moved.

    Args:
        start, first, second: w0, w1 and w2, of one shape.
    """
    movements = (first - start).flatten(), (second - start).flatten()
    cosine = torch.cosine_similarity(*movements, dim=0).clamp(0, 1)
    ratio = 2 * cosine / (1 + cosine)
    return start + ratio / 2 * ((first + second) / 2 - start)
