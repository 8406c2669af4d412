"""Second derivatives of one inner step by double backward.

Forward-over-reverse differentiation (dual numbers through the gradient) gives the same products, but takes more memory and
saves at most a tenth of the time (figures: docs/decisions.md). So it is not offered.
"""

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    DifferenceSettings,
    Gradient,
    Passes,
    StepDerivatives,
    StepGradient,
    StepProducts,
    StudentLoss,
    Tensors,
    inner_products,
    leaves,
    step_loss,
)


class DoubleBackward:
    """Implements `StepDerivatives` exactly, for any loss that can be differentiated twice."""

    def __init__(self, student: StudentLoss) -> None:
        self.student = student

    def gradient(self, theta: Tensors, batch: Tensors, step: int, last: bool) -> StepGradient:
        if last:
            return self._with_graph(theta, batch, step)
        with torch.enable_grad():
            theta_leaves = leaves(theta)
            return StepGradient(torch.autograd.grad(step_loss(self.student, theta_leaves, batch, step), theta_leaves))

    def products(
        self, theta: Tensors, batch: Tensors, step: int, v: Tensors, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        first = first or self._with_graph(theta, batch, step)
        assert first.leaves is not None
        theta_leaves, batch_leaves = first.leaves
        # allow_unused: the gradient need not depend on a parameter that enters the loss linearly.
        products = torch.autograd.grad(
            first.theta,
            [*theta_leaves, *batch_leaves] if with_theta else batch_leaves,
            list(v),
            allow_unused=True,
            materialize_grads=True,
        )
        theta_products = products[: len(theta_leaves)] if with_theta else None
        return StepProducts(theta_products, products[-len(batch_leaves) :], [g.detach() for g in first.theta])

    def _with_graph(self, theta: Tensors, batch: Tensors, step: int) -> StepGradient:
        with torch.enable_grad():
            theta_leaves, batch_leaves = leaves(theta), leaves(batch)
            loss = step_loss(self.student, theta_leaves, batch_leaves, step)
            gradient = torch.autograd.grad(loss, theta_leaves, create_graph=True)
        return StepGradient(gradient, leaves=(theta_leaves, batch_leaves))

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        return inner_products(a, b)


def by_double_backward(passes: Passes, differences: DifferenceSettings) -> StepDerivatives:
    """See `Gradient.derivatives`; the last argument is for finite_difference."""
    return passes.second_order()


EXACT = Gradient(by_double_backward)
