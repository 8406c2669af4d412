"""Second derivatives of one inner step by a difference of gradients along v: for smooth networks, without a graph twice.

    grad_th <g, v> ~ (g(th + e v) - g(th - e v)) / 2e,   grad_b <g, v> ~ (grad_b loss(th + e v) - grad_b loss(th - e v)) / 2e

for the derivative of the loss along v differs from <g, v> only in order, and derivatives commute. The forward scheme
takes the gradients at th from the first pass: one pass a step instead of two, and an error of first order in e.
"""

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.exact import first_gradient
from vldd_dist.distillation.unroll.protocol import InnerProblem, Params, StepGradient, StepProducts

# |e v| / |th|. Measured in fp32 against the full graph (docs/decisions.md): smaller steps drown in rounding, larger
# ones in the next order of the expansion, which the forward scheme meets earlier.
RELATIVE_STEPS = {"central": 1e-4, "forward": 3e-5}


class Differences:
    """Implements `StepDerivatives` approximately.

    Args:
        difference: central (two passes a step) or forward (one).

    Raises:
        ValueError: parameters of less than 32 bits, whose rounding is larger than the difference.
    """

    def __init__(self, problem: InnerProblem, difference: str = "central") -> None:
        self.problem, self.central = problem, difference == "central"
        self.relative_step = RELATIVE_STEPS[difference]

    @property
    def needs_batch_gradient(self) -> bool:
        return not self.central

    def gradient(self, theta: Params, batch: Params, step: int, with_batch: bool) -> StepGradient:
        if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in theta):
            raise ValueError("finite differences need fp32 parameters: in 16 bits the difference of gradients is rounding")
        return first_gradient(self.problem, theta, batch, step, with_batch)

    def products(
        self, theta: Params, batch: Params, step: int, v: Params, first: StepGradient, with_theta: bool
    ) -> StepProducts:
        size = self._norm(v)
        if not float(size) > 0:
            zeros = [torch.zeros_like(tensor) for tensor in theta] if with_theta else None
            return StepProducts(zeros, [torch.zeros_like(tensor) for tensor in batch], first.theta)
        e = float(self.relative_step * self._norm(theta) / size)
        ahead = self._at(theta, batch, step, v, e)
        if self.central:
            behind, width = self._at(theta, batch, step, v, -e), 2 * e
        else:
            behind, width = first, e
        assert ahead.batch is not None
        assert behind.batch is not None
        return StepProducts(
            _difference(ahead.theta, behind.theta, width) if with_theta else None,
            _difference(ahead.batch, behind.batch, width),
            first.theta,
        )

    def _at(self, theta: Params, batch: Params, step: int, v: Params, e: float) -> StepGradient:
        return self.gradient(torch._foreach_add(list(theta), list(v), alpha=e), batch, step, with_batch=True)

    def _norm(self, tensors: Params) -> Tensor:
        return torch.stack([self.dot(tensor, tensor) for tensor in tensors]).sum().sqrt()

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.dot(a.flatten(), b.flatten())


def _difference(a: Params, b: Params, width: float) -> Params:
    return torch._foreach_div(torch._foreach_sub(list(a), list(b)), width)
