"""The reference: one autograd graph over all inner steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import (
    PLAIN,
    Gradient,
    InnerProblem,
    OuterLoss,
    Params,
    Sgd,
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
    sgd: Sgd = PLAIN,
) -> UnrollResult:
    """As `swept_gradient`, with every step's graph alive until the end."""
    with torch.enable_grad():
        on = [leaves(batch) for batch in batches]
        in_all = leaves(shared)
        (learned_rates,) = leaves([rates])
        at = leaves(theta)
        velocity = [torch.zeros_like(p) for p in at]
        for step, batch in enumerate(on):
            kept = step >= sgd.skip
            gradient = torch.autograd.grad(step_loss(problem, at, [*batch, *in_all], step), at, create_graph=kept)
            velocity = [sgd.momentum * u + g + sgd.weight_decay * p for u, g, p in zip(velocity, gradient, at, strict=True)]
            at = [p - learned_rates[tower] * u for p, u, tower in zip(at, velocity, problem.towers, strict=True)]
            if not kept:
                at, velocity = leaves(at), [u.detach() for u in velocity]
        terms = outer(at)
        wanted = [learned_rates, *in_all, *(tensor for batch in on[sgd.skip :] for tensor in batch)]
        rate_gradients, *rest = torch.autograd.grad(terms.sum(), wanted)
    shared_gradients, flat = rest[: len(in_all)], rest[len(in_all) :]
    width = len(batches[0])
    return UnrollResult(
        terms.detach(), [flat[i : i + width] for i in range(0, len(flat), width)], rate_gradients, shared_gradients
    )


FULL = Gradient(None)
