"""Do finite differences agree with the exact second derivative on this student? One step tells."""

import torch

from vldd_dist.distillation.unroll.exact import DoubleBackward
from vldd_dist.distillation.unroll.finite_difference import Differences
from vldd_dist.distillation.unroll.protocol import InnerProblem, Params


def disagreement(problem: InnerProblem, theta: Params, batch: Params, v: Params, difference: str) -> float:
    """Relative l2 error of finite differences against `exact`, over grad_th <g, v> and grad_b <g, v> of one step; the
    worse of the two. Smooth networks stay below 1e-2; at a ReLU's kinks it exceeds 1."""
    approximate = Differences(problem, difference)
    first = approximate.gradient(theta, batch, 0, last=True)
    found = approximate.products(theta, batch, 0, v, first, with_theta=True)
    wanted = DoubleBackward(problem).products(theta, batch, 0, v, None, with_theta=True)
    assert wanted.theta is not None
    assert found.theta is not None
    return max(_relative(found.theta, wanted.theta), _relative(found.batch, wanted.batch))


def _relative(found: Params, wanted: Params) -> float:
    error = torch.stack([(a - b).double().square().sum() for a, b in zip(found, wanted, strict=True)]).sum()
    size = torch.stack([b.double().square().sum() for b in wanted]).sum()
    return float((error / size).sqrt()) if size > 0 else float(error > 0)
