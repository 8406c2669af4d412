"""TESLA's approximate gradient compared with a closed form."""

import torch

from vldd_dist.distillation.unroll import Tensors, Unroll, unrolled_gradient
from vldd_dist.plugins import GRADIENTS
from vldd_dist.testing.unroll_cases import Quadratic


def test_every_step_has_the_adjoint_of_the_end() -> None:
    """Of a quadratic with g_t = th_t - b_t, whose products with the adjoint lam = dL/dth_T are lam and -lam:
    dL/db_t = a lam and dL/da = -sum_t <g_t, lam>, for each tower."""
    generator = torch.Generator().manual_seed(0)
    start, goal = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    batches = torch.randn(4, 2, 5, generator=generator, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.3], dtype=torch.float64)

    def outer(theta: Tensors) -> torch.Tensor:
        return torch.stack([(th - target).square().sum() for th, target in zip(theta, goal, strict=True)])

    unroll = Unroll(list(start), rates, [list(batch) for batch in batches], outer, Quadratic.towers)
    result = unrolled_gradient(unroll, GRADIENTS.load("tesla"), Quadratic())
    theta, gradients = start, []
    for batch in batches:
        gradients.append(theta - batch)
        theta = theta - rates[:, None] * gradients[-1]
    adjoint = 2 * (theta - goal)
    for of_step in result.batch_gradients:
        torch.testing.assert_close(torch.stack(list(of_step)), rates[:, None] * adjoint)
    torch.testing.assert_close(result.rate_gradients, -(torch.stack(gradients) * adjoint).sum(dim=(0, 2)))
