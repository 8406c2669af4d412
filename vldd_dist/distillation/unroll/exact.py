"""Second derivatives of one inner step by double backward.

Forward-over-reverse (a jvp of the gradient) gives the same products; measured on CPU it took 1.2 to 2 times as long for
ViTs and nf_regnet, 0.9 for nfnet_l0, and held more memory everywhere, so there is one way here.
"""

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    InnerProblem,
    Params,
    StepGradient,
    StepProducts,
    leaves,
    step_loss,
)


def first_gradient(problem: InnerProblem, theta: Params, batch: Params, step: int, with_batch: bool) -> StepGradient:
    """One ordinary forward and backward pass."""
    with torch.enable_grad():
        at, on = leaves(theta), (leaves(batch) if with_batch else list(batch))
        loss = step_loss(problem, at, on, step)
        gradients = torch.autograd.grad(loss, [*at, *on] if with_batch else at)
    return StepGradient(gradients[: len(at)], gradients[len(at) :] if with_batch else None)


class DoubleBackward:
    """Implements `StepDerivatives` exactly, for any loss that can be differentiated twice."""

    needs_batch_gradient = False

    def __init__(self, problem: InnerProblem) -> None:
        self.problem = problem

    def gradient(self, theta: Params, batch: Params, step: int, with_batch: bool) -> StepGradient:
        return first_gradient(self.problem, theta, batch, step, with_batch)

    def products(
        self, theta: Params, batch: Params, step: int, v: Params, first: StepGradient, with_theta: bool
    ) -> StepProducts:
        with torch.enable_grad():
            at, on = leaves(theta), leaves(batch)
            gradient = torch.autograd.grad(step_loss(self.problem, at, on, step), at, create_graph=True)
            wanted = [*at, *on] if with_theta else on
            # A parameter that enters the loss linearly has no second derivative along itself.
            products = torch.autograd.grad(gradient, wanted, list(v), allow_unused=True, materialize_grads=True)
        products_theta = products[: len(at)] if with_theta else None
        return StepProducts(products_theta, products[-len(on) :], [g.detach() for g in gradient])

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.dot(a.flatten(), b.flatten())
