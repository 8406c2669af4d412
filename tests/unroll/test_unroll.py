"""The four gradients compared with the full graph, a closed form, gradcheck and each other."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks._measure import peak_memory
from tests.unroll.students import STUDENTS, student_case
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.student.student import StepInputs, Student
from vldd_dist.distillation.unroll import (
    Autograd,
    DifferenceSettings,
    DoubleBackward,
    FiniteDifferences,
    OnDisk,
    OnHost,
    SnapshotStack,
    StepGradient,
    StepProducts,
    Tensors,
    Unroll,
    full_gradient,
    swept_gradient,
    unrolled_gradient,
)
from vldd_dist.distillation.unroll.exact import EXACT
from vldd_dist.distillation.unroll.protocol import step_loss
from vldd_dist.plugins import GRADIENTS
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.unroll_cases import Perceptron, Quadratic, ScaledInfoNCE, dual_encoder_case, flat, relative


@pytest.mark.parametrize("name", STUDENTS)
def test_exact_is_the_full_gradient(name: str) -> None:
    """The relative error is below 1e-5 in fp32, and below 1e-10 in fp64."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        case = student_case(name, dtype=dtype)
        full, exact = case.gradient("full"), case.gradient("exact")
        assert float(full.terms.sum()) > 0
        assert relative(exact.terms, full.terms) < tolerance
        assert relative(flat(exact), flat(full)) < tolerance
        assert relative(exact.rate_gradients, full.rate_gradients) < tolerance


def test_shared_tensors_get_the_sum_over_the_steps() -> None:
    """A tensor that enters every step, compared with finite differences of the whole unroll in fp64; and the ways to compute
    its gradient compared with each other."""
    case = student_case("nfnet with a loss that learns", dtype=torch.float64)
    (logarithm,), step = case.shared, 1e-5
    ends = [float(case.gradient("exact", shared=[logarithm + sign * step]).terms.sum()) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    full, exact = case.gradient("full"), case.gradient("exact")
    assert float(full.shared_gradients[0]) == pytest.approx(slope, rel=1e-6)
    assert float(exact.shared_gradients[0]) == pytest.approx(float(full.shared_gradients[0]), rel=1e-10)
    # With a single batch it is like any other tensor of the batch.
    one = dual_encoder_case(steps=1, dtype=torch.float64, loss=ScaledInfoNCE())
    towers = one.student.towers
    for name in ("full", "exact", "tesla"):
        in_batch = Unroll(one.theta, one.rates, [[*one.batches[0], *one.shared]], _squares, towers)
        beside_it = Unroll(one.theta, one.rates, one.batches, _squares, towers, one.shared)
        apart, common = (unrolled_gradient(unroll, GRADIENTS.load(name), one.student) for unroll in (in_batch, beside_it))
        torch.testing.assert_close(common.shared_gradients[0], apart.batch_gradients[0][-1])
    assert not torch.allclose(case.gradient("tesla").shared_gradients[0], full.shared_gradients[0])


@pytest.mark.parametrize(("difference", "tolerance"), [("central", 1e-3), ("forward", 1e-2)])
def test_differences_find_the_gradient_of_shared_tensors(difference: str, tolerance: float) -> None:
    case = student_case("nfnet with a loss that learns")
    full, found = case.gradient("full"), case.gradient("finite_difference", difference)
    assert relative(found.shared_gradients[0], full.shared_gradients[0]) < tolerance
    assert relative(flat(found), flat(full)) < tolerance


@pytest.mark.parametrize("name", ["full", "exact", "tesla", "finite_difference"])
def test_checkpointing_does_not_change_the_gradient(name: str) -> None:
    plain, checkpointed = student_case("vit"), student_case("vit with checkpointing")
    assert torch.equal(flat(checkpointed.gradient(name)), flat(plain.gradient(name)))


@pytest.mark.parametrize("name", ["nfnet", "nfnet with dropout", "vit", "lora vit", "head only"])
# A LoRA ViT is below 1.5e-3 on some processors and at 1.52e-3 on others: differences in fp32 depend on the order of its sums.
@pytest.mark.parametrize(("difference", "tolerance"), [("central", 2e-3), ("forward", 1e-2)])
def test_finite_differences_are_close_on_smooth_students(name: str, difference: str, tolerance: float) -> None:
    case = student_case(name)
    full, found = case.gradient("full"), case.gradient("finite_difference", difference)
    assert relative(flat(found), flat(full)) < tolerance
    assert relative(found.rate_gradients, full.rate_gradients) < tolerance


def test_the_gradient_beside_central_differences_is_of_second_order() -> None:
    """The mean of the gradients at both sides gives the rates' gradient: a tenth of the epsilon gives a hundredth of the
    error."""
    torch.manual_seed(0)
    theta = [torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4), (4, 4), (4, 2))]
    v = [torch.randn_like(tensor) for tensor in theta]
    batch = [torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)]
    wanted = DoubleBackward(Perceptron()).gradient(theta, batch, 0, last=False).theta
    errors = []
    for step in (1e-2, 1e-3):
        differences = FiniteDifferences(Autograd(Perceptron()), DifferenceSettings("central", step))
        products = differences.products(theta, batch, 0, v, None, with_theta=True)
        off = zip(products.gradient, wanted, strict=True)
        errors.append(float(torch.cat([(found - right).flatten() for found, right in off]).norm()))
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.2)


def test_differences_refuse_sixteen_bits() -> None:
    with pytest.raises(ValueError, match="fp32"):
        FiniteDifferences(Autograd(Quadratic())).gradient(
            [torch.zeros(2, dtype=torch.bfloat16)], [torch.zeros(2)], 0, last=False
        )


def test_tesla_is_exact_for_one_step_only() -> None:
    one, eight = dual_encoder_case(steps=1), dual_encoder_case(steps=8)
    assert relative(flat(one.gradient("tesla")), flat(one.gradient("exact"))) < 1e-6
    assert relative(flat(eight.gradient("tesla")), flat(eight.gradient("exact"))) > 0.1


@pytest.mark.parametrize("name", ["full", "exact"])
def test_closed_form_of_a_quadratic(name: str) -> None:
    """th_T = (1-a)^T th_0 + a * sum_t (1-a)^(T-1-t) b_t; outer loss |th_T - goal|^2 for each tower."""
    generator = torch.Generator().manual_seed(0)
    start, goal = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    batches = torch.randn(4, 2, 5, generator=generator, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.3], dtype=torch.float64)

    def outer(theta: Tensors) -> Tensor:
        return torch.stack([(th - target).square().sum() for th, target in zip(theta, goal, strict=True)])

    unroll = Unroll(list(start), rates, [list(batch) for batch in batches], outer, Quadratic.towers)
    result = unrolled_gradient(unroll, GRADIENTS.load(name), Quadratic())
    a, keep, steps = rates[:, None], 1 - rates[:, None], 4
    end = keep**steps * start + a * sum(keep ** (steps - 1 - t) * batches[t] for t in range(steps))
    adjoint = 2 * (end - goal)
    for t in range(steps):
        torch.testing.assert_close(torch.stack(list(result.batch_gradients[t])), adjoint * a * keep ** (steps - 1 - t))
    slope = -steps * keep ** (steps - 1) * start + sum(
        (keep ** (steps - 1 - t) - a * (steps - 1 - t) * keep ** max(steps - 2 - t, 0)) * batches[t] for t in range(steps)
    )
    torch.testing.assert_close(result.rate_gradients, (adjoint * slope).sum(dim=1))


def test_gradcheck_of_exact_on_a_perceptron() -> None:
    torch.manual_seed(0)
    theta = [torch.randn(*shape, dtype=torch.float64) * 0.5 for shape in ((3, 4), (4, 4), (4, 2))]
    inputs = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    outputs = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    rates = torch.tensor([0.2, 0.4], dtype=torch.float64, requires_grad=True)

    class Unrolled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, inputs: Tensor, outputs: Tensor, rates: Tensor) -> Tensor:
            batches = [[x, y] for x, y in zip(inputs.detach(), outputs.detach(), strict=True)]
            unroll = Unroll(theta, rates.detach(), batches, _squares, Perceptron.towers)
            result = unrolled_gradient(unroll, EXACT, Perceptron())
            context.result = result
            return result.terms.sum()

        @staticmethod
        def backward(context: Any, *upstream: Any) -> Any:
            result = context.result
            gradients = [torch.stack([batch[k] for batch in result.batch_gradients]) for k in (0, 1)]
            return upstream[0] * gradients[0], upstream[0] * gradients[1], upstream[0] * result.rate_gradients

    assert torch.autograd.gradcheck(Unrolled.apply, (inputs, outputs, rates))


def _squares(theta: Tensors) -> Tensor:
    return torch.stack([th.square().sum() for th in theta])


def test_dropout_masks_are_replayed_and_global_randomness_is_untouched() -> None:
    case = dual_encoder_case(dropout=True)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = case.gradient("exact")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(flat(case.gradient("exact")), flat(first))
    other = replace(case, student=case.student.with_inputs(StepInputs(seed=12)))
    assert not torch.equal(flat(other.gradient("exact")), flat(first))
    # The student itself keeps its inputs.
    assert torch.equal(flat(case.gradient("exact")), flat(first))


def test_each_inner_step_has_masks_of_its_own() -> None:
    case = dual_encoder_case(dropout=True)
    losses = [float(step_loss(case.student, case.theta, case.batches[0], step)) for step in (0, 1, 2, 0)]
    assert len(set(losses[:3])) == 3
    assert losses[3] == losses[0]


@pytest.mark.parametrize(
    ("name", "difference", "passes"),
    [
        ("exact", "central", 7),
        ("tesla", "central", 7),
        ("finite_difference", "central", 12),
        ("finite_difference", "forward", 8),
    ],
)
def test_the_number_of_loss_evaluations_of_each_gradient(name: str, difference: str, passes: int) -> None:
    """Evaluations of the loss in four inner steps: `exact` reuses the graph of the last step."""
    case, evaluations = dual_encoder_case(steps=4), []

    class Counted(Student):
        def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
            evaluations.append(step)
            return super().loss(theta, batch, step)

    case.student.__class__ = Counted
    case.gradient(name, difference)
    assert len(evaluations) == passes
    if name == "finite_difference":
        planned = TrajectoryMatching(gradient=name, difference=difference, inner_steps=4).costs()
        assert planned.difference_passes() == passes


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]),
    ],
)
@pytest.mark.parametrize("name", ["exact", "finite_difference"])
def test_offloaded_snapshots_give_bit_identical_results(name: str, device: str, tmp_path: Path) -> None:
    case = dual_encoder_case()
    case = case.to(torch.device(device))
    here = case.gradient(name, "forward")
    disk = OnDisk(tmp_path)
    stacks: list[SnapshotStack] = [OnHost(), disk]
    for stack in stacks:
        # Twice, because a stack is reused by the next unroll.
        for _ in range(2):
            offloaded = case.gradient(name, "forward", snapshots=stack)
            assert flat(offloaded).device.type == device
            assert torch.equal(flat(here), flat(offloaded))
            assert torch.equal(here.rate_gradients, offloaded.rate_gradients)
    # The file has no name, so that a killed process leaves no file behind.
    assert list(tmp_path.iterdir()) == []
    disk.close()


def test_a_rate_of_zero_is_refused() -> None:
    case = dual_encoder_case(steps=1)
    case.rates = torch.tensor([0.1, 0.0])
    with pytest.raises(ValueError, match="must be positive"):
        case.gradient("exact")


@pytest.mark.parametrize("difference", ["central", "forward"])
def test_a_direction_with_nan_is_not_taken_for_zero(difference: str) -> None:
    case = dual_encoder_case(steps=1)
    derivatives, batch = FiniteDifferences(Autograd(case.student), DifferenceSettings(difference)), case.batches[0]
    v = [torch.full_like(tensor, torch.nan) for tensor in case.theta]
    first = derivatives.gradient(case.theta, batch, 0, last=True)
    products = derivatives.products(case.theta, batch, 0, v, first, with_theta=True)
    assert all(bool(tensor.isnan().all()) for tensor in products.batch)


def test_a_student_that_ends_at_its_target_has_no_gradient() -> None:
    """lam = 0, so that the direction of the finite difference has length 0."""
    case = dual_encoder_case(steps=1)
    derivatives = DoubleBackward(case.student)
    g = derivatives.gradient(case.theta, case.batches[0], 0, last=False).theta
    alphas = [float(case.rates[tower]) for tower in case.student.towers]
    case.target = [th - a * gradient for th, a, gradient in zip(case.theta, alphas, g, strict=True)]
    result = case.gradient("finite_difference")
    assert float(result.terms.sum()) < 1e-10
    assert float(flat(result).norm()) < 1e-3


def _peak_mib(name: str, steps: int, queue: Any) -> None:
    torch.set_num_threads(1)
    width, batch = 256, 2048
    theta = [torch.randn(*shape) / width**0.5 for shape in ((width, width), (width, width), (width, 8))]
    batches = [[torch.randn(batch, width), torch.randn(batch, 8)] for _ in range(steps)]
    rates = torch.tensor([1e-3, 1e-3])
    gradient, student = GRADIENTS.load(name), Perceptron(nn.SiLU())
    unroll = Unroll(theta, rates, batches, _squares, student.towers)
    unrolled_gradient(replace(unroll, batches=batches[:1]), gradient, student)
    _, peak = peak_memory(lambda: unrolled_gradient(unroll, gradient, student))
    queue.put(peak / 2**20)


def _growth(name: str) -> float:
    """The MiB that another inner step costs: one step's activations are about 12 MiB, its batch gradients 2 MiB, theta 0.5."""
    context = multiprocessing.get_context("spawn")
    peaks = []
    for steps in (4, 16):
        queue = context.Queue()
        process = context.Process(target=_peak_mib, args=(name, steps, queue))
        process.start()
        peaks.append(queue.get(timeout=HANG_SECONDS))
        process.join()
    return (peaks[1] - peaks[0]) / 12


@pytest.mark.parametrize(("name", "holds"), [("exact", lambda mib: mib < 10), ("full", lambda mib: mib > 20)])
def test_memory_of_exact_grows_by_snapshots_only(name: str, holds: Callable[[float], bool]) -> None:
    """`full` is included to show that the measurement can detect growth."""
    growth = _growth(name)
    assert holds(growth), f"{growth:.1f} MiB a step"


def test_the_sweep_uses_only_step_derivatives() -> None:
    """A separate engine with explicit derivatives of the quadratic, where g = th - b, so that the products are v and -v."""

    class ByHand(DoubleBackward):
        def gradient(self, theta: Tensors, batch: Tensors, step: int, last: bool) -> StepGradient:
            return StepGradient([th - b for th, b in zip(theta, batch, strict=True)])

        def products(
            self, theta: Tensors, batch: Tensors, step: int, v: Tensors, first: StepGradient | None, with_theta: bool
        ) -> StepProducts:
            gradient = self.gradient(theta, batch, step, last=False).theta
            return StepProducts(v if with_theta else None, [-x for x in v], gradient)

    theta, batches = [torch.ones(3), torch.zeros(3)], [[torch.rand(3), torch.rand(3)] for _ in range(3)]
    rates = torch.tensor([0.1, 0.2])
    unroll = Unroll(theta, rates, batches, _squares, Quadratic.towers)
    found, wanted = swept_gradient(unroll, ByHand(Quadratic())), full_gradient(unroll, Quadratic())
    torch.testing.assert_close(flat(found), flat(wanted))
    torch.testing.assert_close(found.rate_gradients, wanted.rate_gradients)
