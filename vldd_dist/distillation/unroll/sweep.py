"""The sweep: the student's steps forward, then the adjoint back, one step's graph at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    PLAIN,
    OuterLoss,
    Params,
    Sgd,
    StepDerivatives,
    StepGradient,
    UnrollResult,
    leaves,
)
from vldd_dist.distillation.unroll.snapshot_stack import InPlace, Shelf


@torch.no_grad()
def swept_gradient(
    derivatives: StepDerivatives,
    towers: Sequence[int],
    theta: Params,
    rates: Tensor,
    batches: Sequence[Params],
    outer: OuterLoss,
    shared: Params = (),
    *,
    update_adjoint: bool = True,
    shelf: Shelf | None = None,
    sgd: Sgd = PLAIN,
) -> UnrollResult:
    """Gradients of outer(theta_T) with respect to every batch, the shared tensors and the rates. Memory: the snapshots of the
    differentiated steps, and one step; with momentum one more vector like theta each way.

    Args:
        theta: theta_0.
        towers: for each tensor of theta the index of its rate.
        rates: (towers,) inner learning rates.
        batches: one tuple of tensors for each inner step.
        shared: tensors that enter the loss of every inner step, after those of its batch. Their gradient is the sum over the
            steps; where several ranks evaluate parts of the loss it is this rank's part of that sum.
        update_adjoint: False leaves lam_t = lam_T (tesla).
        shelf: where the snapshots wait for the sweep; none: where theta is.
        sgd: momentum, weight decay, and how many steps are not differentiated. Derivatives that keep a step's first gradient
            (forward differences) are for plain SGD.

    Raises:
        ValueError: a rate is not positive.
    """
    if not bool((rates > 0).all()):
        raise ValueError(f"the inner learning rates must be positive, not {rates.tolist()}")
    values = rates.tolist()
    alphas = [values[tower] for tower in towers]
    batches = [[*batch, *shared] for batch in batches]
    own = len(batches[0]) - len(shared)
    # Of each differentiated step its start, and its first derivatives as far as the way back needs them.
    snapshots: Shelf = InPlace() if shelf is None else shelf
    firsts: list[StepGradient | None] = []
    end: Params = list(theta)
    velocity: Params | None = None
    for step, batch in enumerate(batches):
        last = step == len(batches) - 1
        first = derivatives.gradient(end, batch, step, last)
        if step >= sgd.skip:
            snapshots.push(end)
            firsts.append(first if last else _without_theta(first, sgd))
        velocity = _next_velocity(velocity, first.theta, end, sgd)
        moved = torch._foreach_mul(list(velocity), [-alpha for alpha in alphas])
        torch._foreach_add_(moved, list(end))
        end = moved
        if not sgd.momentum:
            velocity = None
        del first, moved
    del velocity
    terms, adjoint = _outer_gradient(outer, end)

    results: list[Params] = []
    rate_gradients = torch.zeros_like(rates)
    shared_gradients = [torch.zeros_like(tensor) for tensor in shared]
    owners = torch.tensor(list(towers), device=rates.device)
    # dLoss/dvelocity of the step that comes next on the way back, its sign changed.
    v: list[Tensor] = []
    for step in reversed(range(sgd.skip, len(batches))):
        begin = snapshots.pop()
        known = firsts.pop()
        if known is not None and not known.theta:
            known = StepGradient(_velocity_between(begin, end, alphas), known.batch)
        scaled = torch._foreach_mul(adjoint, alphas)
        v = list(torch._foreach_add(scaled, v, alpha=sgd.momentum) if v and sgd.momentum else scaled)
        products = derivatives.products(begin, batches[step], step, v, known, with_theta=update_adjoint and step > sgd.skip)
        results.append([-gradient for gradient in products.batch[:own]])
        for total, gradient in zip(shared_gradients, products.batch[own:], strict=True):
            total.sub_(gradient)
        stepped = products.gradient if sgd.is_plain else _velocity_between(begin, end, alphas)
        rate_gradients.index_add_(0, owners, derivatives.inner_products(stepped, adjoint).to(rates.dtype), alpha=-1)
        if products.theta is not None:
            torch._foreach_sub_(adjoint, list(products.theta))
            if sgd.weight_decay:
                torch._foreach_sub_(adjoint, v, alpha=sgd.weight_decay)
        end = begin
        # Nothing of this step while the next one builds its graph.
        del known, products, scaled, stepped
    return UnrollResult(terms, results[::-1], rate_gradients, shared_gradients)


def _next_velocity(velocity: Params | None, gradient: Params, theta: Params, sgd: Sgd) -> Params:
    """What the step is taken along."""
    if sgd.weight_decay:
        gradient = torch._foreach_add(list(gradient), list(theta), alpha=sgd.weight_decay)
    return gradient if velocity is None else torch._foreach_add(list(gradient), list(velocity), alpha=sgd.momentum)


def _without_theta(first: StepGradient, sgd: Sgd) -> StepGradient | None:
    """What is kept of a step: the batch's gradient. That of theta is as large as a snapshot, and of plain SGD two snapshots
    tell it."""
    assert first.batch is None or sgd.is_plain, "forward differences are for plain SGD"
    return None if first.batch is None else StepGradient((), first.batch)


def _velocity_between(begin: Params, end: Params, alphas: list[float]) -> Params:
    """What a step was taken along, from its ends: of plain SGD the gradient."""
    gradient = torch._foreach_sub(list(begin), list(end))
    torch._foreach_div_(gradient, alphas)
    return gradient


def _outer_gradient(outer: OuterLoss, theta: Params) -> tuple[Tensor, list[Tensor]]:
    """The terms of the outer loss at theta_T and lam_T."""
    with torch.enable_grad():
        end = leaves(theta)
        terms = outer(end)
        adjoint = torch.autograd.grad(terms.sum(), end)
    return terms.detach(), [lam.clone() for lam in adjoint]


def scatter_to_pairs(batches: Sequence[Params], indices: Sequence[Tensor], pairs: int) -> list[Tensor]:
    """Sum the inner steps' batch gradients into gradients of all M pairs.

    Args:
        batches: for each step the gradients of its tensors (B, ...).
        indices: for each step the pairs (B,) it used.

    Returns:
        For each tensor of a batch its (M, ...) gradient; pairs never drawn get zeros.
    """
    totals = [gradient.new_zeros(pairs, *gradient.shape[1:]) for gradient in batches[0]]
    for gradients, chosen in zip(batches, indices, strict=True):
        for total, gradient in zip(totals, gradients, strict=True):
            total.index_add_(0, chosen.to(gradient.device), gradient)
    return totals
