"""Do finite differences agree with second derivatives on this student, and by which epsilon? A whole unroll's gradient tells.

One inner step does not: where a network has kinks the errors of the steps multiply (docs/decisions.md).
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import Params, UnrollResult

# |epsilon v| / |th| that are tried; docs/decisions.md has the error of each on several students.
CANDIDATE_EPSILONS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)

# Of two vectors, tensor by tensor: summed over the ranks where each has a part.
InnerProducts = Callable[[Params, Params], Tensor]


class EpsilonChoice(NamedTuple):
    """The best relative epsilon, its relative l2 error, and what the error was measured against."""

    relative_epsilon: float
    error: float
    against: str


def choose_epsilon(
    by_differences: Callable[[float], UnrollResult],
    exact: UnrollResult | None,
    inner_products: InnerProducts,
    known: float | None = None,
) -> EpsilonChoice:
    """The candidate whose unroll agrees best with `exact`'s; without one, with a neighbouring candidate's.

    Unrolls by two epsilons agree only where both are right: rounding falls with epsilon and the next order of the expansion
    grows with it.

    Args:
        by_differences: relative epsilon -> the gradient of the unroll.
        exact: the same by second derivatives; none where these do not fit.
        known: one of the candidates, to be measured alone.
    """
    unroll = cache(by_differences)

    def error(epsilon: float) -> float:
        found = unroll_error(unroll(epsilon), unroll(_neighbour(epsilon)) if exact is None else exact, inner_products)
        return found if math.isfinite(found) else math.inf

    errors = {epsilon: error(epsilon) for epsilon in (CANDIDATE_EPSILONS if known is None else (known,))}
    best = min(errors, key=errors.__getitem__)
    return EpsilonChoice(best, errors[best], "another epsilon" if exact is None else "exact")


def _neighbour(epsilon: float) -> float:
    """The next larger candidate, of the largest the next smaller one."""
    position = CANDIDATE_EPSILONS.index(epsilon)
    return CANDIDATE_EPSILONS[position + 1 if position + 1 < len(CANDIDATE_EPSILONS) else position - 1]


def unroll_error(found: UnrollResult, wanted: UnrollResult, inner_products: InnerProducts) -> float:
    """The relative l2 error of the gradient of the images or the texts, over all inner steps, the worse of the two.

    Not of the rates' gradient: it passes through zero where the rates are at their best, and it is made of the same products.
    """
    errors = []
    for position in range(len(wanted.batches[0])):
        ours, theirs = ([batch[position] for batch in result.batches] for result in (found, wanted))
        off = torch._foreach_sub(ours, theirs)
        error, size = (float(inner_products(a, a).double().sum()) for a in (off, theirs))
        errors.append((error / size) ** 0.5 if size > 0 else float(error > 0))
    # Not max(), which may pass over NaN.
    return float(torch.tensor(errors).max())
