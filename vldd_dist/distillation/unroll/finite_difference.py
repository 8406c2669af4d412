"""Second derivatives of one inner step by a difference of gradients along v, without double backward; for smooth networks.

    grad_th <g, v> ~ (g(th + e v) - g(th - e v)) / 2e,   grad_b <g, v> ~ (grad_b loss(th + e v) - grad_b loss(th - e v)) / 2e

where e = epsilon. This holds because <g, v> is the derivative of the loss along v, and derivatives commute. The forward scheme
uses the gradients at th from the forward sweep in place of those at th - e v. It takes one pass a step instead of two, and its
error is of first order in epsilon instead of second.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    CENTRAL,
    DifferenceSettings,
    FirstOrder,
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

# |epsilon v| / |th| unless `choose_epsilon` finds a better one; measured in fp32 against the full graph (docs/decisions.md).
# With a smaller epsilon rounding dominates the error; with a larger one truncation does, and earlier in the forward scheme.
RELATIVE_EPSILONS = {"central": 5e-5, "forward": 3e-5}


class Autograd:
    """Implements `FirstOrder` for a student whose parameters are all in this process."""

    def __init__(self, student: StudentLoss) -> None:
        self.student = student

    def gradients(
        self, theta: Tensors, batch: Tensors, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        with torch.enable_grad():
            theta_leaves = leaves(theta) if of_theta else []
            batch_leaves = leaves(batch) if of_batch else []
            loss = step_loss(self.student, theta_leaves or theta, batch_leaves or batch, step)
            gradients = list(torch.autograd.grad(loss, [*theta_leaves, *batch_leaves]))
        return gradients[: len(theta_leaves)], gradients[len(theta_leaves) :]

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        return inner_products(a, b)


@contextmanager
def all_bits_of_fp32() -> Iterator[None]:
    """Disables TF32 on GPUs within the `with` block. Convolutions use it by default, and its 10 bits of mantissa lose a shift
    by `RELATIVE_EPSILONS`. The flags hold for the whole process, so also for the threads of the backward pass."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class FiniteDifferences:
    """Implements `StepDerivatives` approximately."""

    def __init__(self, first_order: FirstOrder, settings: DifferenceSettings = CENTRAL) -> None:
        self.first_order, self.central = first_order, settings.scheme == "central"
        self.relative_epsilon = settings.relative_epsilon or RELATIVE_EPSILONS[settings.scheme]

    def gradient(self, theta: Tensors, batch: Tensors, step: int, last: bool) -> StepGradient:
        """Raises ValueError for 16-bit parameters: their rounding error is larger than the difference of the gradients."""
        if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in theta):
            raise ValueError("finite differences need fp32 parameters: in 16 bits the difference is rounding error")
        with all_bits_of_fp32():
            gradient, batch_gradient = self.first_order.gradients(theta, batch, step, of_batch=not self.central)
        return StepGradient(gradient, None if self.central else batch_gradient)

    def products(
        self, theta: Tensors, batch: Tensors, step: int, v: Tensors, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        v_norm = self._norm(v)
        # For v = 0 all products are zero, whatever epsilon is.
        epsilon = self.relative_epsilon * self._norm(theta) / v_norm if v_norm else 1.0
        # The gradients at th + epsilon v. From here on they become the products, in place.
        theta_products, batch_products = self._shifted_gradients(
            theta, batch, step, v, epsilon, of_theta=with_theta or self.central
        )
        if self.central:
            behind_theta, behind_batch = self._shifted_gradients(theta, batch, step, v, -epsilon, of_theta=True)
            torch._foreach_sub_(theta_products, behind_theta)
            # The mean of both sides is g up to an error of second order in epsilon.
            gradient: Tensors = torch._foreach_add(behind_theta, theta_products, alpha=0.5)
            width = 2 * epsilon
        else:
            assert first is not None
            assert first.batch is not None
            gradient, behind_batch, width = first.theta, list(first.batch), epsilon
            if with_theta:
                torch._foreach_sub_(theta_products, list(gradient))
        torch._foreach_sub_(batch_products, behind_batch)
        torch._foreach_div_(batch_products, width)
        if not with_theta:
            return StepProducts(None, batch_products, gradient)
        torch._foreach_div_(theta_products, width)
        return StepProducts(theta_products, batch_products, gradient)

    def _shifted_gradients(
        self, theta: Tensors, batch: Tensors, step: int, v: Tensors, epsilon: float, *, of_theta: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of theta and of the batch at theta + epsilon v."""
        shifted = torch._foreach_add(list(theta), list(v), alpha=epsilon)
        with all_bits_of_fp32():
            return self.first_order.gradients(shifted, batch, step, of_theta=of_theta)

    def _norm(self, tensors: Tensors) -> float:
        return float(self.inner_products(tensors, tensors).sum().sqrt())

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        return self.first_order.inner_products(a, b)


def _by_differences(passes: Passes, differences: DifferenceSettings) -> StepDerivatives:
    return FiniteDifferences(passes.first_order(), differences)


FINITE_DIFFERENCE = Gradient(_by_differences, first_order_only=True)
