"""The sweep: take the student's steps forward, then propagate the adjoint back through them, one step's graph at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    OuterLoss,
    Sgd,
    StepDerivatives,
    StepGradient,
    Tensors,
    Unroll,
    UnrollResult,
    leaves,
)
from vldd_dist.distillation.unroll.snapshot_stack import InPlace, SnapshotStack


@torch.no_grad()
def swept_gradient(
    unroll: Unroll, derivatives: StepDerivatives, *, update_adjoint: bool = True, snapshots: SnapshotStack | None = None
) -> UnrollResult:
    """Gradients of outer(theta_T) with respect to every differentiated batch, the shared tensors and the rates.

    Holds in memory a snapshot of theta for each differentiated step, and one step's graph; with momentum, also one more vector
    of the size of theta on the way forward, and one on the way back.

    Args:
        update_adjoint: False keeps lam_t = lam_T (tesla).
        snapshots: keeps the snapshots until the sweep back; None: on the device of theta.

    Raises:
        ValueError: a rate is not positive.
    """
    if not bool((unroll.rates > 0).all()):
        raise ValueError(f"the inner learning rates must be positive, not {unroll.rates.tolist()}")
    sweep = _Sweep(unroll, derivatives, InPlace() if snapshots is None else snapshots)
    sweep.forward()
    terms = sweep.turn()
    return UnrollResult(terms, *sweep.backward(update_adjoint=update_adjoint))


class _Sweep:
    """The steps that are taken and not yet propagated back through. The module's docstring has the formulas.

    Attributes:
        alphas: the rate of each tensor of theta.
        snapshots: for each differentiated step theta before it.
        last: the first derivatives of the last step, with their graph; None once it has been propagated back through.
        batch_gradients: for each step before it the batch's gradient, if the derivatives need it. The gradient of theta, which
            is as large as a snapshot, is not kept: with plain SGD it is recomputed from two snapshots.
        end: theta after the last of them.
        adjoint: lam at `end`.
        v: v of the step after the last of them; empty if there is none.
    """

    def __init__(self, unroll: Unroll, derivatives: StepDerivatives, snapshots: SnapshotStack) -> None:
        self.unroll, self.derivatives, self.snapshots = unroll, derivatives, snapshots
        values = unroll.rates.tolist()
        self.alphas: list[float] = [values[tower] for tower in unroll.towers]
        self.last: StepGradient | None = None
        self.batch_gradients: list[Tensors | None] = []
        self.end: Tensors = list(unroll.theta)
        self.adjoint: list[Tensor] = []
        self.v: list[Tensor] = []

    def forward(self) -> None:
        """Take all steps."""
        sgd, velocity = self.unroll.sgd, None
        last = len(self.unroll.batches) - 1
        for step in range(last + 1):
            first = self.derivatives.gradient(self.end, self.unroll.tensors_of(step), step, step == last)
            if step >= sgd.skip:
                self.snapshots.push(self.end)
                if step == last:
                    self.last = first
                else:
                    assert first.batch is None or sgd.is_plain, "forward differences are for plain SGD"
                    self.batch_gradients.append(first.batch)
            velocity = _next_velocity(velocity, first.theta, self.end, sgd)
            next_theta = torch._foreach_mul(list(velocity), [-alpha for alpha in self.alphas])
            torch._foreach_add_(next_theta, list(self.end))
            self.end = next_theta
            if not sgd.momentum:
                velocity = None
            # Free this step's tensors before the next step builds its graph.
            del first, next_theta

    def turn(self) -> Tensor:
        """Start the adjoint. Returns the (n,) terms of the outer loss."""
        terms, self.adjoint = _outer_gradient(self.unroll.outer, self.end)
        return terms

    def backward(self, *, update_adjoint: bool) -> tuple[list[Tensors], Tensor, list[Tensor]]:
        """Propagate the adjoint back through all differentiated steps. Returns the gradients of their batches, of the rates and
        of the shared tensors."""
        unroll, skip = self.unroll, self.unroll.sgd.skip
        own = len(unroll.batches[0])
        batches: list[Tensors] = []
        rates = torch.zeros_like(unroll.rates, device="cpu")
        shared = [torch.zeros_like(tensor) for tensor in unroll.shared]
        tower_indices = torch.tensor(list(unroll.towers))
        for step in reversed(range(skip, len(unroll.batches))):
            products, rate_terms = self._propagate(step, with_theta=update_adjoint and step > skip)
            batches.append([-product for product in products[:own]])
            if shared:
                torch._foreach_sub_(shared, list(products[own:]))
            # Summed on the CPU, in a fixed order, so that all ranks and reruns have equal bits.
            rates.index_add_(0, tower_indices, rate_terms.to(rates.dtype).cpu(), alpha=-1)
            # Free this step's products before the next step builds its graph.
            del products, rate_terms
        return batches[::-1], rates.to(unroll.rates.device), shared

    def _propagate(self, step: int, *, with_theta: bool) -> tuple[Tensors, Tensor]:
        """Propagate the adjoint through one step.

        Args:
            with_theta: whether to update the adjoint.

        Returns:
            grad_b <g, v> for the tensors of the step, and for each tensor of theta <u, lam> of this step.
        """
        sgd, begin = self.unroll.sgd, self.snapshots.pop()
        first = self._first_derivatives(begin)
        scaled = torch._foreach_mul(self.adjoint, self.alphas)
        v = self.v = list(torch._foreach_add(scaled, self.v, alpha=sgd.momentum) if self.v and sgd.momentum else scaled)
        products = self.derivatives.products(begin, self.unroll.tensors_of(step), step, v, first, with_theta=with_theta)
        velocity = products.gradient if sgd.is_plain else _velocity_between(begin, self.end, self.alphas)
        rate_terms = self.derivatives.inner_products(velocity, self.adjoint)
        if products.theta is not None:
            torch._foreach_sub_(self.adjoint, list(products.theta))
            if sgd.weight_decay:
                torch._foreach_sub_(self.adjoint, v, alpha=sgd.weight_decay)
        self.end = begin
        return products.batch, rate_terms

    def _first_derivatives(self, begin: Tensors) -> StepGradient | None:
        """What `StepDerivatives.products` is given of the first derivatives of the step from `begin` to `end`."""
        if self.last is not None:
            first, self.last = self.last, None
            return first
        batch_gradient = self.batch_gradients.pop()
        return None if batch_gradient is None else StepGradient(_velocity_between(begin, self.end, self.alphas), batch_gradient)


def _next_velocity(velocity: Tensors | None, gradient: Tensors, theta: Tensors, sgd: Sgd) -> Tensors:
    """u_{t+1} = m * u_t + g + w * th; without `velocity`, u_t is zero."""
    if sgd.weight_decay:
        gradient = torch._foreach_add(list(gradient), list(theta), alpha=sgd.weight_decay)
    return gradient if velocity is None else torch._foreach_add(list(gradient), list(velocity), alpha=sgd.momentum)


def _velocity_between(begin: Tensors, end: Tensors, alphas: list[float]) -> Tensors:
    """The velocity of a step, recomputed from theta before and after it. With plain SGD it is the gradient."""
    gradient = torch._foreach_sub(list(begin), list(end))
    torch._foreach_div_(gradient, alphas)
    return gradient


def _outer_gradient(outer: OuterLoss, theta: Tensors) -> tuple[Tensor, list[Tensor]]:
    """The (n,) terms of the outer loss at theta_T, and lam_T."""
    with torch.enable_grad():
        theta_leaves = leaves(theta)
        terms = outer(theta_leaves)
        adjoint = torch.autograd.grad(terms.sum(), theta_leaves)
    return terms.detach(), [lam.clone() for lam in adjoint]


def scatter_to_pairs(batches: Sequence[Tensors], indices: Sequence[Tensor], pairs: int) -> list[Tensor]:
    """Sum the batch gradients of all inner steps into gradients of all M pairs.

    Args:
        batches: for each step the gradients (B, ...) of its tensors.
        indices: for each step the (B,) int64 indices of its pairs.
        pairs: M.

    Returns:
        For each tensor of a batch its (M, ...) gradient, which is zero for pairs that no step used.
    """
    totals = [gradient.new_zeros(pairs, *gradient.shape[1:]) for gradient in batches[0]]
    for gradients, chosen in zip(batches, indices, strict=True):
        for total, gradient in zip(totals, gradients, strict=True):
            total.index_add_(0, chosen.to(gradient.device), gradient)
    return totals
