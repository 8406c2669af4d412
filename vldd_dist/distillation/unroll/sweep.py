"""The sweep: take the student's steps forward, then propagate the adjoint back through them, one step's graph at a time."""

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
from vldd_dist.distillation.unroll.snapshot_stack import InPlace, SnapshotStack


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
    snapshots: SnapshotStack | None = None,
    sgd: Sgd = PLAIN,
) -> UnrollResult:
    """Gradients of outer(theta_T) with respect to every batch, the shared tensors and the rates.

    Holds in memory a snapshot of theta for each differentiated step, and one step's graph; with momentum, also one more vector
    of the size of theta on the way forward, and one on the way back.

    Args:
        towers: for each tensor of theta the index of its rate.
        theta: theta_0.
        rates: (towers,) inner learning rates.
        batches: for each inner step its tensors.
        outer: theta_T -> (n,) terms of the outer loss.
        shared: tensors that enter the loss of every inner step, after those of its batch. Their gradient is the sum over the
            steps; if several ranks each evaluate a part of the loss, it is this rank's part of that sum.
        update_adjoint: False keeps lam_t = lam_T (tesla).
        snapshots: keeps the snapshots until the sweep back; None: on the device of theta.
        sgd: momentum, weight decay, and how many first steps are not differentiated. Forward differences, which keep the first
            gradient of each step, need plain SGD.

    Raises:
        ValueError: a rate is not positive.
    """
    if not bool((rates > 0).all()):
        raise ValueError(f"the inner learning rates must be positive, not {rates.tolist()}")
    values = rates.tolist()
    alphas = [values[tower] for tower in towers]
    batches = [[*batch, *shared] for batch in batches]
    own = len(batches[0]) - len(shared)
    # For each differentiated step: theta before it, and those of its first derivatives that the way back needs.
    snapshots = InPlace() if snapshots is None else snapshots
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
        next_theta = torch._foreach_mul(list(velocity), [-alpha for alpha in alphas])
        torch._foreach_add_(next_theta, list(end))
        end = next_theta
        if not sgd.momentum:
            velocity = None
        del first, next_theta
    del velocity
    terms, adjoint = _outer_gradient(outer, end)

    results: list[Params] = []
    rate_gradients = torch.zeros_like(rates, device="cpu")
    shared_gradients = [torch.zeros_like(tensor) for tensor in shared]
    tower_indices = torch.tensor(list(towers))
    # v_{t+1}, from the step after this one: minus the gradient of its velocity.
    v: list[Tensor] = []
    for step in reversed(range(sgd.skip, len(batches))):
        begin = snapshots.pop()
        first_derivatives = firsts.pop()
        if first_derivatives is not None and not first_derivatives.theta:
            first_derivatives = StepGradient(_velocity_between(begin, end, alphas), first_derivatives.batch)
        scaled = torch._foreach_mul(adjoint, alphas)
        v = list(torch._foreach_add(scaled, v, alpha=sgd.momentum) if v and sgd.momentum else scaled)
        with_theta = update_adjoint and step > sgd.skip
        products = derivatives.products(begin, batches[step], step, v, first_derivatives, with_theta=with_theta)
        results.append([-gradient for gradient in products.batch[:own]])
        for total, gradient in zip(shared_gradients, products.batch[own:], strict=True):
            total.sub_(gradient)
        stepped = products.gradient if sgd.is_plain else _velocity_between(begin, end, alphas)
        rate_terms = derivatives.inner_products(stepped, adjoint).to(rates.dtype)
        # Summed on the CPU, in a fixed order, so that all ranks and reruns have equal bits.
        rate_gradients.index_add_(0, tower_indices, rate_terms.cpu(), alpha=-1)
        if products.theta is not None:
            torch._foreach_sub_(adjoint, list(products.theta))
            if sgd.weight_decay:
                torch._foreach_sub_(adjoint, v, alpha=sgd.weight_decay)
        end = begin
        # Free this step's tensors before the next step builds its graph.
        del first_derivatives, products, scaled, stepped
    return UnrollResult(terms, results[::-1], rate_gradients.to(rates.device), shared_gradients)


def _next_velocity(velocity: Params | None, gradient: Params, theta: Params, sgd: Sgd) -> Params:
    """u_{t+1} = m * u_t + g + w * th; without `velocity`, u_t is zero."""
    if sgd.weight_decay:
        gradient = torch._foreach_add(list(gradient), list(theta), alpha=sgd.weight_decay)
    return gradient if velocity is None else torch._foreach_add(list(gradient), list(velocity), alpha=sgd.momentum)


def _without_theta(first: StepGradient, sgd: Sgd) -> StepGradient | None:
    """What is kept of a step's first derivatives: the batch's gradient. The gradient of theta is as large as a snapshot, and
    with plain SGD it can be recomputed from two snapshots."""
    assert first.batch is None or sgd.is_plain, "forward differences are for plain SGD"
    return None if first.batch is None else StepGradient((), first.batch)


def _velocity_between(begin: Params, end: Params, alphas: list[float]) -> Params:
    """The velocity of a step, recomputed from theta before and after it. With plain SGD it is the gradient."""
    gradient = torch._foreach_sub(list(begin), list(end))
    torch._foreach_div_(gradient, alphas)
    return gradient


def _outer_gradient(outer: OuterLoss, theta: Params) -> tuple[Tensor, list[Tensor]]:
    """The (n,) terms of the outer loss at theta_T, and lam_T."""
    with torch.enable_grad():
        theta_leaves = leaves(theta)
        terms = outer(theta_leaves)
        adjoint = torch.autograd.grad(terms.sum(), theta_leaves)
    return terms.detach(), [lam.clone() for lam in adjoint]


def scatter_to_pairs(batches: Sequence[Params], indices: Sequence[Tensor], pairs: int) -> list[Tensor]:
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
