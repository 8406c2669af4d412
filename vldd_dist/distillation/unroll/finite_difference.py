"""Second derivatives of one inner step by a difference of gradients along v: for smooth networks, without a graph twice.

    grad_th <g, v> ~ (g(th + e v) - g(th - e v)) / 2e,   grad_b <g, v> ~ (grad_b loss(th + e v) - grad_b loss(th - e v)) / 2e

with e = epsilon: <g, v> is the derivative of the loss along v, and derivatives commute. The forward scheme takes the gradients
at th from the first pass: one pass a step instead of two, and an error of first order in epsilon.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    FirstOrder,
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

# |epsilon v| / |th| unless `choose_epsilon` finds a better one. Measured in fp32 against the full graph (docs/decisions.md):
# smaller ones drown in rounding, larger ones in the next order of the expansion, which the forward scheme meets earlier.
RELATIVE_EPSILONS = {"central": 5e-5, "forward": 3e-5}


class Autograd:
    """Implements `FirstOrder` for a student whose parameters are whole here."""

    def __init__(self, problem: InnerProblem) -> None:
        self.problem = problem

    def gradients(
        self, theta: Params, batch: Params, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        with torch.enable_grad():
            at, on = leaves(theta) if of_theta else [], leaves(batch) if of_batch else []
            loss = step_loss(self.problem, at or theta, on or batch, step)
            gradients = list(torch.autograd.grad(loss, [*at, *on]))
        return gradients[: len(at)], gradients[len(at) :]

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return inner_products(a, b)


@contextmanager
def _all_bits_of_fp32() -> Iterator[None]:
    """Within the `with` block, no product on a GPU rounds its factors to TF32, as convolutions do unless torch is told
    otherwise: its 10 bits of mantissa do not see a shift of `RELATIVE_EPSILONS`. The flags are the process's, and so those of
    the backward pass's threads."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


class Differences:
    """Implements `StepDerivatives` approximately.

    Args:
        difference: central (two passes a step) or forward (one).
        relative_epsilon: |epsilon v| / |th|; none: the scheme's of `RELATIVE_EPSILONS`.
    """

    def __init__(self, first_order: FirstOrder, difference: str = "central", relative_epsilon: float | None = None) -> None:
        self.first_order, self.central = first_order, difference == "central"
        self.relative_epsilon = relative_epsilon or RELATIVE_EPSILONS[difference]

    def gradient(self, theta: Params, batch: Params, step: int, last: bool) -> StepGradient:
        """Raises ValueError for parameters of less than 32 bits, whose rounding is larger than the difference."""
        if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in theta):
            raise ValueError("finite differences need fp32 parameters: in 16 bits the difference of gradients is rounding")
        with _all_bits_of_fp32():
            gradient, batch_gradient = self.first_order.gradients(theta, batch, step, of_batch=not self.central)
        return StepGradient(gradient, None if self.central else batch_gradient)

    def products(
        self, theta: Params, batch: Params, step: int, v: Params, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        size = self._norm(v)
        # A direction without length: products with zero, whatever the step.
        epsilon = self.relative_epsilon * self._norm(theta) / size if size else 1.0
        ahead_theta, ahead_batch = self._along(theta, batch, step, v, epsilon, of_theta=with_theta or self.central)
        if self.central:
            behind_theta, behind_batch = self._along(theta, batch, step, v, -epsilon, of_theta=True)
            torch._foreach_sub_(ahead_theta, behind_theta)
            # The mean of both sides: g up to the second order in epsilon.
            gradient: Params = torch._foreach_add(behind_theta, ahead_theta, alpha=0.5)
            width = 2 * epsilon
        else:
            assert first is not None
            assert first.batch is not None
            gradient, behind_batch, width = first.theta, list(first.batch), epsilon
            if with_theta:
                torch._foreach_sub_(ahead_theta, list(gradient))
        torch._foreach_sub_(ahead_batch, behind_batch)
        torch._foreach_div_(ahead_batch, width)
        if not with_theta:
            return StepProducts(None, ahead_batch, gradient)
        torch._foreach_div_(ahead_theta, width)
        return StepProducts(ahead_theta, ahead_batch, gradient)

    def _along(
        self, theta: Params, batch: Params, step: int, v: Params, epsilon: float, *, of_theta: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        shifted = torch._foreach_add(list(theta), list(v), alpha=epsilon)
        with _all_bits_of_fp32():
            return self.first_order.gradients(shifted, batch, step, of_theta=of_theta)

    def _norm(self, tensors: Params) -> float:
        return float(self.inner_products(tensors, tensors).sum().sqrt())

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return self.first_order.inner_products(a, b)


def _by_differences(passes: Passes, difference: str, relative_epsilon: float | None) -> StepDerivatives:
    return Differences(passes.first_order(), difference, relative_epsilon)


FINITE_DIFFERENCE = Gradient(_by_differences, first_order_only=True)
