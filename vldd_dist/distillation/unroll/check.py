"""Do finite differences agree with second derivatives on this student, and by which step? The gradient of a whole unroll tells.

One inner step does not: where a network has kinks the errors of the steps multiply (docs/decisions.md).
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import Params, UnrollResult

# |e v| / |th| that are tried; docs/decisions.md has the error of each on several students.
CANDIDATE_STEPS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)

# Of two vectors, tensor by tensor: summed over the ranks where each has a part.
InnerProducts = Callable[[Params, Params], Tensor]


class StepChoice(NamedTuple):
    """The best relative step, its relative l2 error, and what the error was measured against."""

    relative_step: float
    error: float
    against: str


def choose_step(
    by_differences: Callable[[float], UnrollResult],
    exact: UnrollResult | None,
    inner_products: InnerProducts,
    known: float | None = None,
) -> StepChoice:
    """The candidate whose unroll agrees best with `exact`'s; without one, with a neighbouring candidate's.

    Unrolls at two steps agree only where both are right: rounding falls with the step and the next order of the expansion
    grows with it.

    Args:
        by_differences: relative step -> the gradient of the unroll.
        exact: the same by second derivatives; none where these do not fit.
        known: one of the candidates, to be measured alone.
    """
    unroll = cache(by_differences)

    def error(step: float) -> float:
        found = unroll_error(unroll(step), unroll(_neighbour(step)) if exact is None else exact, inner_products)
        return found if math.isfinite(found) else math.inf

    errors = {step: error(step) for step in (CANDIDATE_STEPS if known is None else (known,))}
    best = min(errors, key=errors.__getitem__)
    return StepChoice(best, errors[best], "another step size" if exact is None else "exact")


def _neighbour(step: float) -> float:
    """The next larger candidate, of the largest the next smaller one."""
    position = CANDIDATE_STEPS.index(step)
    return CANDIDATE_STEPS[position + 1 if position + 1 < len(CANDIDATE_STEPS) else position - 1]


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
