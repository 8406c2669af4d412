"""The reference: one autograd graph over all inner steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    Gradient,
    InnerProblem,
    OuterLoss,
    Params,
    UnrollResult,
    leaves,
    step_loss,
)


def full_gradient(
    problem: InnerProblem,
    theta: Params,
    rates: Tensor,
    batches: Sequence[Params],
    outer: OuterLoss,
    shared: Params = (),
) -> UnrollResult:
    """As `swept_gradient`, with every step's graph alive until the end."""
    with torch.enable_grad():
        on = [leaves(batch) for batch in batches]
        in_all = leaves(shared)
        (learned_rates,) = leaves([rates])
        at = leaves(theta)
        for step, batch in enumerate(on):
            gradient = torch.autograd.grad(step_loss(problem, at, [*batch, *in_all], step), at, create_graph=True)
            at = [p - learned_rates[tower] * g for p, g, tower in zip(at, gradient, problem.towers, strict=True)]
        terms = outer(at)
        wanted = [learned_rates, *in_all, *(tensor for batch in on for tensor in batch)]
        rate_gradients, *rest = torch.autograd.grad(terms.sum(), wanted)
    shared_gradients, flat = rest[: len(in_all)], rest[len(in_all) :]
    width = len(batches[0])
    return UnrollResult(
        terms.detach(), [flat[i : i + width] for i in range(0, len(flat), width)], rate_gradients, shared_gradients
    )


FULL = Gradient(None)
