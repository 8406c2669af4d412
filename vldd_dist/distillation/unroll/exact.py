"""Second derivatives of one inner step by double backward.

Forward-over-reverse (dual numbers through the gradient) gives the same products, for more memory and at best a tenth less time
(figures: docs/decisions.md). So there is one way here.
"""

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    Gradient,
    InnerProblem,
    Params,
    Passes,
    StepDerivatives,
    StepGradient,
    StepProducts,
    inner_products,
    leaves,
    step_loss,
)


class DoubleBackward:
    """Implements `StepDerivatives` exactly, for any loss that can be differentiated twice."""

    def __init__(self, problem: InnerProblem) -> None:
        self.problem = problem

    def gradient(self, theta: Params, batch: Params, step: int, last: bool) -> StepGradient:
        if last:
            return self._with_graph(theta, batch, step)
        with torch.enable_grad():
            at = leaves(theta)
            return StepGradient(torch.autograd.grad(step_loss(self.problem, at, batch, step), at))

    def products(
        self, theta: Params, batch: Params, step: int, v: Params, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        first = first or self._with_graph(theta, batch, step)
        assert first.leaves is not None
        at, on = first.leaves
        # A parameter that enters the loss linearly has no second derivative along itself.
        products = torch.autograd.grad(
            first.theta, [*at, *on] if with_theta else on, list(v), allow_unused=True, materialize_grads=True
        )
        products_theta = products[: len(at)] if with_theta else None
        return StepProducts(products_theta, products[-len(on) :], [g.detach() for g in first.theta])

    def _with_graph(self, theta: Params, batch: Params, step: int) -> StepGradient:
        with torch.enable_grad():
            at, on = leaves(theta), leaves(batch)
            gradient = torch.autograd.grad(step_loss(self.problem, at, on, step), at, create_graph=True)
        return StepGradient(gradient, leaves=(at, on))

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return inner_products(a, b)


def by_double_backward(passes: Passes, difference: str, relative_epsilon: float | None) -> StepDerivatives:
    return passes.second_order()


EXACT = Gradient(by_double_backward)
