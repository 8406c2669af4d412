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
) -> UnrollResult:
    """Gradients of outer(theta_T) with respect to every batch, the shared tensors and the rates. Memory: theta_0..theta_T and
    one step.

    Args:
        theta: theta_0.
        towers: for each tensor of theta the index of its rate.
        rates: (towers,) inner learning rates.
        batches: one tuple of tensors for each inner step.
        shared: tensors that enter the loss of every inner step, after those of its batch. Their gradient is the sum over the
            steps; where several ranks evaluate parts of the loss it is this rank's part of that sum.
        update_adjoint: False leaves lam_t = lam_T (tesla).
        shelf: where the snapshots wait for the sweep; none: where theta is.

    Raises:
        ValueError: a rate is not positive.
    """
    if not bool((rates > 0).all()):
        raise ValueError(f"the inner learning rates must be positive, not {rates.tolist()}")
    values = rates.tolist()
    alphas = [values[tower] for tower in towers]
    # Of each step its start, and its first derivatives as far as the way back needs them.
    batches = [[*batch, *shared] for batch in batches]
    own = len(batches[0]) - len(shared)
    snapshots: Shelf = InPlace() if shelf is None else shelf
    firsts: list[StepGradient | None] = []
    end: Params = list(theta)
    for step, batch in enumerate(batches):
        last = step == len(batches) - 1
        first = derivatives.gradient(end, batch, step, last)
        snapshots.push(end)
        firsts.append(first if last else _without_theta(first))
        moved = torch._foreach_mul(list(first.theta), [-alpha for alpha in alphas])
        torch._foreach_add_(moved, list(end))
        end = moved
        del first, moved
    terms, adjoint = _outer_gradient(outer, end)

    results: list[Params] = [()] * len(batches)
    rate_gradients = torch.zeros_like(rates)
    shared_gradients = [torch.zeros_like(tensor) for tensor in shared]
    owners = torch.tensor(list(towers), device=rates.device)
    for step in reversed(range(len(batches))):
        begin = snapshots.pop()
        known = firsts.pop()
        if known is not None and not known.theta:
            known = StepGradient(_gradient_between(begin, end, alphas), known.batch)
        end = begin
        v = torch._foreach_mul(adjoint, alphas)
        products = derivatives.products(begin, batches[step], step, v, known, with_theta=update_adjoint and step > 0)
        results[step] = [-gradient for gradient in products.batch[:own]]
        for total, gradient in zip(shared_gradients, products.batch[own:], strict=True):
            total.sub_(gradient)
        rate_gradients.index_add_(0, owners, derivatives.inner_products(products.gradient, adjoint).to(rates.dtype), alpha=-1)
        if products.theta is not None:
            torch._foreach_sub_(adjoint, list(products.theta))
        # Nothing of this step while the next one builds its graph.
        del known, products, v
    return UnrollResult(terms, results, rate_gradients, shared_gradients)


def _without_theta(first: StepGradient) -> StepGradient | None:
    """What is kept of a step: the batch's gradient. That of theta is as large as a snapshot, and two snapshots tell it."""
    return None if first.batch is None else StepGradient((), first.batch)


def _gradient_between(begin: Params, end: Params, alphas: list[float]) -> Params:
    """g from the step it made."""
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
