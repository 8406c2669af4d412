"""The gradient of the unroll: how the end of a few SGD steps depends on the batches and the learning rates.

With g(th, b) = grad_th loss(th, b), the student steps th_{t+1} = th_t - a * g(th_t, b_t), a one rate a tower. For an
outer loss L(th_T), lam_T = dL/dth_T, the sweep back over the stored th_0..th_T needs one step's graph at a time:

    dL/db_t  = -grad_b <g(th_t, b_t), a*lam_{t+1}>
    dL/da   += -<g(th_t, b_t), lam_{t+1}>             (tower by tower)
    lam_t    = lam_{t+1} - grad_th <g(th_t, b_t), a*lam_{t+1}>

With momentum m and weight decay w the step is th_{t+1} = th_t - a * u_{t+1}, u_{t+1} = m * u_t + g(th_t, b_t) + w * th_t. The
direction a*lam_{t+1} is then v_t = a*lam_{t+1} + m * v_{t+1}, the rate's gradient is that of u, and

    lam_t    = lam_{t+1} - w * v_t - grad_th <g(th_t, b_t), v_t>

A tensor that enters every step, a learned temperature say, has the sum of its dL/db_t over the steps as its gradient.

`full` keeps one graph over all steps, as the published code does; `exact` differentiates each step twice;
`finite_difference` replaces the second derivative by a difference of gradients; `tesla` leaves lam at lam_T
(Cui et al. 2211.10586), which is not the gradient and is here for comparison.

This package imports torch and nothing of ours: an engine that shards the parameters implements `StepDerivatives`.
"""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.distillation.unroll.check import EpsilonChoice, choose_epsilon, unroll_error
from vldd_dist.distillation.unroll.exact import EXACT, DoubleBackward
from vldd_dist.distillation.unroll.finite_difference import FINITE_DIFFERENCE, Autograd, Differences
from vldd_dist.distillation.unroll.full import FULL, full_gradient
from vldd_dist.distillation.unroll.protocol import (
    PLAIN,
    FirstOrder,
    Gradient,
    InnerProblem,
    OuterLoss,
    Params,
    Passes,
    Sgd,
    StepDerivatives,
    StepGradient,
    StepProducts,
    UnrollResult,
    inner_products,
)
from vldd_dist.distillation.unroll.snapshot_stack import OnDisk, OnHost, Shelf
from vldd_dist.distillation.unroll.sweep import scatter_to_pairs, swept_gradient
from vldd_dist.distillation.unroll.tesla import TESLA

__all__ = [
    "GRADIENTS",
    "PLAIN",
    "Autograd",
    "Differences",
    "DoubleBackward",
    "EpsilonChoice",
    "FirstOrder",
    "Gradient",
    "InnerProblem",
    "OnDisk",
    "OnHost",
    "Params",
    "Passes",
    "Sgd",
    "Shelf",
    "StepDerivatives",
    "StepGradient",
    "StepProducts",
    "UnrollResult",
    "choose_epsilon",
    "full_gradient",
    "inner_products",
    "scatter_to_pairs",
    "swept_gradient",
    "unroll_error",
    "unrolled_gradient",
]

GRADIENTS = {"full": FULL, "exact": EXACT, "finite_difference": FINITE_DIFFERENCE, "tesla": TESLA}


def unrolled_gradient(
    gradient: str | Gradient,
    problem: InnerProblem,
    theta: Params,
    rates: Tensor,
    batches: Sequence[Params],
    outer: OuterLoss,
    difference: str = "central",
    *,
    shared: Params = (),
    relative_epsilon: float | None = None,
    shelf: Shelf | None = None,
    sgd: Sgd = PLAIN,
) -> UnrollResult:
    """The gradient by one of `GRADIENTS`, on one process; see `swept_gradient` for the arguments. `difference` and
    `relative_epsilon` concern finite_difference, `shelf` all but full.

    Raises:
        ValueError: no such gradient, a rate that is not positive, 16-bit parameters for finite_difference.
    """
    if isinstance(gradient, str):
        if gradient not in GRADIENTS:
            raise ValueError(f"there is no gradient {gradient!r}: choose one of {', '.join(GRADIENTS)}")
        gradient = GRADIENTS[gradient]
    if gradient.derivatives is None:
        return full_gradient(problem, theta, rates, batches, outer, shared, sgd)
    derivatives = gradient.derivatives(_WholePasses(problem), difference, relative_epsilon)
    return swept_gradient(
        derivatives,
        problem.towers,
        theta,
        rates,
        batches,
        outer,
        shared,
        update_adjoint=gradient.update_adjoint,
        shelf=shelf,
        sgd=sgd,
    )


class _WholePasses:
    """Implements `Passes` for a student whose parameters are whole here."""

    def __init__(self, problem: InnerProblem) -> None:
        self.problem = problem

    def first_order(self) -> FirstOrder:
        return Autograd(self.problem)

    def second_order(self) -> StepDerivatives:
        return DoubleBackward(self.problem)
