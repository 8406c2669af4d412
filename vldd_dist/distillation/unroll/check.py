"""Measures whether finite differences agree with exact second derivatives on a student, and chooses their epsilon.

The gradients of a whole unroll are compared, not those of one inner step: if the network has kinks, the errors of the steps
multiply (docs/decisions.md).
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import Tensors, UnrollResult

# Values of |epsilon v| / |th| to try; docs/decisions.md has the error of each on several students.
CANDIDATE_EPSILONS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)

# (tensors,) inner products of two vectors, tensor by tensor; summed over the ranks if each rank has a part of the vectors.
InnerProducts = Callable[[Tensors, Tensors], Tensor]


class EpsilonChoice(NamedTuple):
    """The best relative epsilon, its relative l2 error, and what the error was measured against (for messages)."""

    relative_epsilon: float
    error: float
    against: str


def choose_epsilon(
    by_differences: Callable[[float], UnrollResult],
    exact: UnrollResult | None,
    inner_products: InnerProducts,
    chosen: float | None = None,
) -> EpsilonChoice:
    """Choose the candidate whose gradient agrees best with `exact`, or without `exact` with that of a neighbouring candidate.

    The gradients of two epsilons agree only if both are accurate: a smaller epsilon has a larger rounding error, and a larger
    epsilon a larger error of truncation.

    Args:
        by_differences: relative epsilon -> the gradient of the unroll.
        exact: the same gradient by second derivatives; None if these do not fit in memory.
        chosen: a candidate that was chosen before; only its error is measured.
    """
    gradient_at = cache(by_differences)

    def error_of(epsilon: float) -> float:
        result = gradient_at(epsilon)
        reference = gradient_at(_neighbour(epsilon)) if exact is None else exact
        error = unroll_error(result, reference, inner_products)
        return error if math.isfinite(error) else math.inf

    candidates = CANDIDATE_EPSILONS if chosen is None else (chosen,)
    errors = {epsilon: error_of(epsilon) for epsilon in candidates}
    best = min(errors, key=errors.__getitem__)
    return EpsilonChoice(best, errors[best], "another epsilon" if exact is None else "exact")


def _neighbour(epsilon: float) -> float:
    """The next larger candidate; for the largest candidate the next smaller one."""
    position = CANDIDATE_EPSILONS.index(epsilon)
    return CANDIDATE_EPSILONS[position + 1 if position + 1 < len(CANDIDATE_EPSILONS) else position - 1]


def unroll_error(result: UnrollResult, reference: UnrollResult, inner_products: InnerProducts) -> float:
    """The relative l2 error of the batch gradients, all inner steps taken together: the largest of those of
    images, texts and what the loss learns of each pair.

    The gradient of the rates is left out: it passes through zero where the rates are optimal, so that a relative error says
    nothing, and it is computed from the same products.
    """
    errors = []
    for position in range(len(reference.batch_gradients[0])):
        gradient = [batch[position] for batch in result.batch_gradients]
        expected = [batch[position] for batch in reference.batch_gradients]
        difference = torch._foreach_sub(gradient, expected)
        squared_error = float(inner_products(difference, difference).double().sum())
        squared_size = float(inner_products(expected, expected).double().sum())
        errors.append((squared_error / squared_size) ** 0.5 if squared_size > 0 else float(squared_error > 0))
    # The max of a tensor is NaN if any error is; Python's max() may skip NaN.
    return float(torch.tensor(errors).max())
