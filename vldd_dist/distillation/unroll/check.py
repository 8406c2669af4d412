"""Do finite differences agree with the second derivative on this student, and by which step? One inner step tells."""

import math
from typing import NamedTuple

import torch

from vldd_dist.distillation.unroll.finite_difference import Differences, FirstOrder
from vldd_dist.distillation.unroll.protocol import Params, StepDerivatives, StepProducts

# |e v| / |th| that are tried; docs/decisions.md has the error of each on several students.
CANDIDATE_STEPS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


class StepChoice(NamedTuple):
    """The best relative step, its relative l2 error, and what the error was measured against."""

    relative_step: float
    error: float
    against: str


def choose_step(
    first_order: FirstOrder, exact: StepDerivatives | None, theta: Params, batch: Params, v: Params, difference: str
) -> StepChoice:
    """The candidate whose products with v agree best with `exact`; without one, with the next larger candidate's.

    The error is that of grad_th <g, v> or grad_b <g, v>, the worse of the two. Smooth networks stay below 1e-2; at a ReLU's
    kinks it exceeds 1, whatever the step. Products at two steps agree only where both are right: rounding falls with the
    step and the next order of the expansion grows with it.
    """

    def products(relative_step: float) -> StepProducts:
        differences = Differences(first_order, difference, relative_step)
        first = differences.gradient(theta, batch, 0, last=True)
        return differences.products(theta, batch, 0, v, first, with_theta=True)

    errors = []
    if exact is not None:
        wanted = exact.products(theta, batch, 0, v, None, with_theta=True)
        errors = [_disagreement(first_order, products(step), wanted) for step in CANDIDATE_STEPS]
    else:
        smaller = products(CANDIDATE_STEPS[0])
        for step in CANDIDATE_STEPS[1:]:
            larger = products(step)
            errors.append(_disagreement(first_order, smaller, larger))
            smaller = larger
    best = min(range(len(errors)), key=lambda position: errors[position] if math.isfinite(errors[position]) else math.inf)
    return StepChoice(CANDIDATE_STEPS[best], errors[best], "another step size" if exact is None else "exact")


def _disagreement(first_order: FirstOrder, found: StepProducts, wanted: StepProducts) -> float:
    assert found.theta is not None
    assert wanted.theta is not None
    return max(_relative_error(first_order, a, b) for a, b in ((found.theta, wanted.theta), (found.batch, wanted.batch)))


def _relative_error(first_order: FirstOrder, found: Params, wanted: Params) -> float:
    off = torch._foreach_sub(list(found), list(wanted))
    error, size = (float(first_order.inner_products(a, a).double().sum()) for a in (off, wanted))
    return (error / size) ** 0.5 if size > 0 else float(error > 0)
