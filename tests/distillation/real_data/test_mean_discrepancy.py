"""The discrepancy: its value, and finite gradients where arc cosine and square root have infinite slopes. Merged teachers."""

import math

import pytest
import torch
from torch.nn import functional

from vldd_dist.distillation.real_data.mean_discrepancy import angle_kernel, mean_discrepancy
from vldd_dist.distillation.real_data.merged_teacher import merged_teacher


def test_the_kernel_is_that_of_the_angle() -> None:
    angles = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 3.0, math.pi])
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    expected = (-(angles**2) / (2 * 0.7**2)).exp()
    torch.testing.assert_close(angle_kernel(points[:1], points, 0.7)[0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", ["equal", "opposite", "doubled", "apart"])
def test_gradients_are_finite_at_equal_and_opposite_points(case: str) -> None:
    given = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    other = {"equal": given, "opposite": -given, "doubled": given[[0, 0, 1, 1]], "apart": given.flip(0) + 1}[case]
    leaf = given.clone().requires_grad_()
    found = mean_discrepancy(functional.normalize(leaf), functional.normalize(other), 0.5)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert gradient.isfinite().all()
    assert (gradient.norm() > 1e-3) == (case != "equal")
    assert (found < 1e-3) == (case == "equal")


def test_a_step_along_the_gradient_brings_the_points_together() -> None:
    generator = torch.Generator().manual_seed(1)
    points, target = torch.randn(8, 3, generator=generator), torch.randn(20, 3, generator=generator) + torch.tensor([2.0, 0, 0])
    values = []
    for _ in range(100):
        leaf = points.requires_grad_()
        found = mean_discrepancy(functional.normalize(leaf), functional.normalize(target), 0.5)
        values.append(found.item())
        points = (leaf - 3 * torch.autograd.grad(found, leaf)[0]).detach()
    assert values[-1] < values[0] / 2


def test_a_teacher_lies_between_start_and_mean() -> None:
    start = torch.tensor([1.0, 1.0])
    same = merged_teacher(start, start + torch.tensor([2.0, 0.0]), start + torch.tensor([4.0, 0.0]))
    torch.testing.assert_close(same, start + torch.tensor([1.5, 0.0]), msg="ratio one: half the way to the mean")
    at_60_degrees = merged_teacher(start, start + torch.tensor([1.0, 0.0]), start + torch.tensor([0.5, 0.75**0.5]))
    torch.testing.assert_close(at_60_degrees, start + torch.tensor([0.75, 0.75**0.5 / 2]) / 3)
    away = merged_teacher(start, start + torch.tensor([1.0, 0.0]), start - torch.tensor([1.0, 1.0]))
    assert torch.equal(away, start)
    assert torch.equal(merged_teacher(start, start, start + 1), start)
