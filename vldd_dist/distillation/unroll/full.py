"""The reference: one autograd graph over all inner steps."""

import torch

from vldd_dist.distillation.unroll.protocol import Gradient, StudentLoss, Tensors, Unroll, UnrollResult, leaves, step_loss


def full_gradient(unroll: Unroll, student: StudentLoss) -> UnrollResult:
    """Returns what `swept_gradient` returns. The graphs of all differentiated steps are in memory until the end."""
    sgd = unroll.sgd
    with torch.enable_grad():
        batch_leaves = [leaves(batch) for batch in unroll.batches]
        shared_leaves = leaves(unroll.shared)
        (rate_leaf,) = leaves([unroll.rates])
        params = leaves(unroll.theta)
        velocity = [torch.zeros_like(p) for p in params]
        for step, batch in enumerate(batch_leaves):
            differentiated = step >= sgd.skip
            loss = step_loss(student, params, [*batch, *shared_leaves], step)
            gradient = torch.autograd.grad(loss, params, create_graph=differentiated)
            velocity = [sgd.momentum * u + g + sgd.weight_decay * p for u, g, p in zip(velocity, gradient, params, strict=True)]
            params = [p - rate_leaf[tower] * u for p, u, tower in zip(params, velocity, unroll.towers, strict=True)]
            if not differentiated:
                params, velocity = leaves(params), [u.detach() for u in velocity]
        terms = unroll.outer(params)
        differentiated_leaves = [tensor for batch in batch_leaves[sgd.skip :] for tensor in batch]
        rate_gradients, *rest = torch.autograd.grad(terms.sum(), [rate_leaf, *shared_leaves, *differentiated_leaves])
    shared_gradients, flat = rest[: len(shared_leaves)], rest[len(shared_leaves) :]
    width = len(unroll.batches[0])
    batch_gradients: list[Tensors] = [flat[start : start + width] for start in range(0, len(flat), width)]
    return UnrollResult(terms.detach(), batch_gradients, rate_gradients, shared_gradients)


FULL = Gradient(None)
