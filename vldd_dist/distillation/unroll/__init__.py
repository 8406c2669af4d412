"""The gradient of the unroll: how the parameters after a few SGD steps depend on the batches and on the learning rates.

Let g(th, b) = grad_th loss(th, b). The student steps th_{t+1} = th_t - a * g(th_t, b_t), where a is the learning rate of the
tower that each tensor belongs to. For an outer loss L(th_T), start from the adjoint lam_T = dL/dth_T and sweep back over the
stored th_0..th_T. Only one step's graph is alive at a time:

    dL/db_t  = -grad_b <g(th_t, b_t), a*lam_{t+1}>
    dL/da   += -<g(th_t, b_t), lam_{t+1}>             (tower by tower)
    lam_t    = lam_{t+1} - grad_th <g(th_t, b_t), a*lam_{t+1}>

With momentum m and weight decay w the step is th_{t+1} = th_t - a * u_{t+1}, u_{t+1} = m * u_t + g(th_t, b_t) + w * th_t. Then
v_t = a*lam_{t+1} + m * v_{t+1} takes the place of a*lam_{t+1}, u_{t+1} takes the place of g in dL/da, and

    lam_t    = lam_{t+1} - w * v_t - grad_th <g(th_t, b_t), v_t>

The gradient of a tensor that enters every step, such as a learned temperature, is the sum of its dL/db_t over the steps.

`full` keeps one graph over all steps, as the published code does; `exact` differentiates each step twice;
`finite_difference` replaces the second derivative by a difference of gradients; `tesla` keeps lam at lam_T
(Cui et al. 2211.10586), which is not the gradient and is here for comparison.

This package imports torch, numpy and nothing else of this repository. An engine that shards the parameters implements
`StepDerivatives`.
"""

from vldd_dist.distillation.unroll.check import EpsilonChoice, choose_epsilon, unroll_error
from vldd_dist.distillation.unroll.exact import DoubleBackward
from vldd_dist.distillation.unroll.finite_difference import Autograd, FiniteDifferences
from vldd_dist.distillation.unroll.full import full_gradient
from vldd_dist.distillation.unroll.protocol import (
    CENTRAL,
    PLAIN,
    DifferenceSettings,
    FirstOrder,
    Gradient,
    OuterLoss,
    Passes,
    Sgd,
    StepDerivatives,
    StepGradient,
    StepProducts,
    StudentLoss,
    Tensors,
    Unroll,
    UnrollResult,
    inner_products,
)
from vldd_dist.distillation.unroll.snapshot_stack import OnDisk, OnHost, SnapshotStack
from vldd_dist.distillation.unroll.sweep import scatter_to_pairs, swept_gradient

__all__ = [
    "CENTRAL",
    "PLAIN",
    "Autograd",
    "DifferenceSettings",
    "DoubleBackward",
    "EpsilonChoice",
    "FiniteDifferences",
    "FirstOrder",
    "Gradient",
    "OnDisk",
    "OnHost",
    "OuterLoss",
    "Passes",
    "Sgd",
    "SnapshotStack",
    "StepDerivatives",
    "StepGradient",
    "StepProducts",
    "StudentLoss",
    "Tensors",
    "Unroll",
    "UnrollResult",
    "choose_epsilon",
    "full_gradient",
    "inner_products",
    "scatter_to_pairs",
    "swept_gradient",
    "unroll_error",
    "unrolled_gradient",
]


def unrolled_gradient(
    unroll: Unroll,
    gradient: Gradient,
    student: StudentLoss,
    differences: DifferenceSettings = CENTRAL,
    *,
    snapshots: SnapshotStack | None = None,
) -> UnrollResult:
    """Compute the gradient on one process.

    Args:
        gradient: one of `plugins.GRADIENTS`.
        differences: used by finite_difference only.
        snapshots: keeps the snapshots until the sweep back, see `swept_gradient`; used by every gradient except full.

    Raises:
        ValueError: a rate is not positive, or finite_difference is given 16-bit parameters.
    """
    if gradient.derivatives is None:
        return full_gradient(unroll, student)
    derivatives = gradient.derivatives(_WholePasses(student), differences)
    return swept_gradient(unroll, derivatives, update_adjoint=gradient.update_adjoint, snapshots=snapshots)


class _WholePasses:
    """Implements `Passes` for a student whose parameters are all in this process."""

    def __init__(self, student: StudentLoss) -> None:
        self.student = student

    def first_order(self) -> FirstOrder:
        return Autograd(self.student)

    def second_order(self) -> StepDerivatives:
        return DoubleBackward(self.student)
