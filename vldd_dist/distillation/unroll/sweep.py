"""The sweep: the student's steps forward, then the adjoint back, one step's graph at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    OuterLoss,
    Params,
    StepDerivatives,
    StepGradient,
    UnrollResult,
    leaves,
)


@torch.no_grad()
def swept_gradient(
    derivatives: StepDerivatives,
    towers: Sequence[int],
    theta: Params,
    rates: Tensor,
    batches: Sequence[Params],
    outer: OuterLoss,
    *,
    update_adjoint: bool = True,
) -> UnrollResult:
    """Gradients of outer(theta_T) with respect to every batch and the rates. Memory: theta_0..theta_T and one step.

    Args:
        theta: theta_0.
        towers: for each tensor of theta the index of its rate.
        rates: (towers,) inner learning rates.
        batches: one tuple of tensors for each inner step.
        update_adjoint: False leaves lam_t = lam_T (tesla).
    """
    alphas = [float(rates[tower]) for tower in towers]
    snapshots: list[Params] = [list(theta)]
    batch_gradients: list[Params | None] = []
    for step, batch in enumerate(batches):
        first = derivatives.gradient(snapshots[-1], batch, step, derivatives.needs_batch_gradient)
        moved = torch._foreach_mul(list(first.theta), [-alpha for alpha in alphas])
        torch._foreach_add_(moved, list(snapshots[-1]))
        snapshots.append(moved)
        batch_gradients.append(first.batch)
        del first
    terms, adjoint = _outer_gradient(outer, snapshots[-1])
    results: list[Params] = [()] * len(batches)
    rate_gradients = torch.zeros_like(rates)
    for step in reversed(range(len(batches))):
        end, begin = snapshots.pop(), snapshots[-1]
        # g again from the step it made; exactly what a forward difference is taken against.
        gradient = torch._foreach_sub(list(begin), list(end))
        torch._foreach_div_(gradient, alphas)
        v = torch._foreach_mul(adjoint, alphas)
        first = StepGradient(gradient, batch_gradients.pop())
        del end, gradient
        products = derivatives.products(begin, batches[step], step, v, first, with_theta=update_adjoint and step > 0)
        results[step] = [-gradient for gradient in products.batch]
        for lam, g, tower in zip(adjoint, products.gradient, towers, strict=True):
            rate_gradients[tower] -= derivatives.dot(g, lam)
        if products.theta is not None:
            torch._foreach_sub_(adjoint, list(products.theta))
    return UnrollResult(terms, results, rate_gradients)


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
