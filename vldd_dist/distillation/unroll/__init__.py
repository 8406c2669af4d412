"""The gradient of the unroll: how the end of a few SGD steps depends on the batches and the learning rates.

With g(th, b) = grad_th loss(th, b), the student steps th_{t+1} = th_t - a * g(th_t, b_t), a one rate a tower. For an
outer loss L(th_T), lam_T = dL/dth_T, the sweep back over the stored th_0..th_T needs one step's graph at a time:

    dL/db_t  = -grad_b <g(th_t, b_t), a*lam_{t+1}>
    dL/da   += -<g(th_t, b_t), lam_{t+1}>             (tower by tower)
    lam_t    = lam_{t+1} - grad_th <g(th_t, b_t), a*lam_{t+1}>

`full` keeps one graph over all steps, as the published code does; `exact` differentiates each step twice;
`finite_difference` replaces the second derivative by a difference of gradients; `tesla` leaves lam at lam_T
(Cui et al. 2211.10586), which is not the gradient and is here for comparison.

This package imports torch and nothing of ours: an engine that shards the parameters implements `StepDerivatives`.
"""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.distillation.unroll.check import StepChoice, choose_step, unroll_error
from vldd_dist.distillation.unroll.exact import DoubleBackward
from vldd_dist.distillation.unroll.finite_difference import Autograd, Differences, FirstOrder
from vldd_dist.distillation.unroll.full import full_gradient
from vldd_dist.distillation.unroll.protocol import (
    InnerProblem,
    OuterLoss,
    Params,
    StepDerivatives,
    StepGradient,
    StepProducts,
    UnrollResult,
    inner_products,
)
from vldd_dist.distillation.unroll.snapshot_stack import OnDisk, OnHost, Shelf
from vldd_dist.distillation.unroll.sweep import scatter_to_pairs, swept_gradient

__all__ = [
    "GRADIENTS",
    "Autograd",
    "Differences",
    "DoubleBackward",
    "FirstOrder",
    "InnerProblem",
    "OnDisk",
    "OnHost",
    "Params",
    "Shelf",
    "StepChoice",
    "StepDerivatives",
    "StepGradient",
    "StepProducts",
    "UnrollResult",
    "choose_step",
    "full_gradient",
    "inner_products",
    "scatter_to_pairs",
    "swept_gradient",
    "unroll_error",
    "unrolled_gradient",
]

GRADIENTS = ("full", "exact", "finite_difference", "tesla")


def unrolled_gradient(
    name: str,
    problem: InnerProblem,
    theta: Params,
    rates: Tensor,
    batches: Sequence[Params],
    outer: OuterLoss,
    difference: str = "central",
    *,
    relative_step: float | None = None,
    shelf: Shelf | None = None,
) -> UnrollResult:
    """The gradient by one of the four names in `GRADIENTS`; see `swept_gradient` for the arguments. `difference` and
    `relative_step` concern finite_difference, `shelf` all but full.

    Raises:
        ValueError: no such gradient, a rate that is not positive, 16-bit parameters for finite_difference.
    """
    if name not in GRADIENTS:
        raise ValueError(f"there is no gradient {name!r}: choose one of {', '.join(GRADIENTS)}")
    if name == "full":
        return full_gradient(problem, theta, rates, batches, outer)
    derivatives: StepDerivatives = DoubleBackward(problem)
    if name == "finite_difference":
        derivatives = Differences(Autograd(problem), difference, relative_step)
    return swept_gradient(
        derivatives, problem.towers, theta, rates, batches, outer, update_adjoint=name != "tesla", shelf=shelf
    )
