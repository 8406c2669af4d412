"""The check of finite differences: whole unrolls, the choice of epsilon, and the rejection of modules with kinks."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.unroll.students import student_case
from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.kinks import first_kink, refuse_kinked_student
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.distillation.unroll import (
    Autograd,
    DifferenceSettings,
    DoubleBackward,
    EpsilonChoice,
    FiniteDifferences,
    Unroll,
    UnrollResult,
    choose_epsilon,
    inner_products,
    unroll_error,
)
from vldd_dist.distillation.unroll.check import CANDIDATE_EPSILONS
from vldd_dist.errors import ConfigError
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.testing.unroll_cases import TEXT_DIM, Case, dual_encoder_case, flat, relative


def chosen(case: Case, difference: str = "central", exact: bool = True) -> EpsilonChoice:
    def by_differences(step: float) -> UnrollResult:
        return case.gradient("finite_difference", difference, relative_epsilon=step)

    return choose_epsilon(by_differences, case.gradient("exact") if exact else None, inner_products)


def checked(case: Case, known: float | None = None) -> EpsilonChoice:
    """The check that a run makes; `known`: the only epsilon to try."""
    unroller = LocalUnroller(case.student.model, InfoNCE(), TrajectoryMatching(gradient="finite_difference"), None)
    outer = partial(matching_loss, start=case.theta, target=case.target, towers=unroller.towers)
    unroll = Unroll(case.theta, case.rates, case.batches, outer, unroller.towers)
    return unroller.check_differences(StudentUnroll(unroll, 11), known)


def larger_case(pairs: int, rate: float, **image: object) -> Case:
    """A problem with five inner steps at 64 px."""
    case = dual_encoder_case(**image)
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    case.batches = [[randn(pairs, 3, 64, 64), randn(pairs, TEXT_DIM)] for _ in range(5)]
    case.target = [value + 0.02 * randn(*value.shape) for value in case.theta]
    case.rates = torch.tensor([rate, rate])
    return case


def error_of_a_step(case: Case, relative_epsilon: float) -> float:
    """The relative error of the products of the first inner step alone, along the adjoint after it."""
    exact = DoubleBackward(case.student)
    differences = FiniteDifferences(Autograd(case.student), DifferenceSettings("central", relative_epsilon))
    gradient = exact.gradient(case.theta, case.batches[0], 0, last=False).theta
    rates = [float(case.rates[tower]) for tower in case.student.towers]
    stepped = [theta - rate * g for theta, rate, g in zip(case.theta, rates, gradient, strict=True)]
    adjoint = [end - goal for end, goal in zip(stepped, case.target, strict=True)]
    products = [d.products(case.theta, case.batches[0], 0, adjoint, None, with_theta=True) for d in (differences, exact)]
    of_theta, of_batch = (
        [torch.cat([t.flatten() for t in p.theta]) for p in products if p.theta is not None],
        [torch.cat([t.flatten() for t in p.batch]) for p in products],
    )
    return max(relative(*of_theta), relative(*of_batch))


def test_finite_differences_that_agree_for_one_step_but_not_for_the_unroll_are_rejected() -> None:
    """timm's test_byobnet at 64 px: one inner step passes at the default tolerance, but the gradient of the unroll is wrong."""
    case, tolerance = larger_case(2, 0.1, model="test_byobnet"), TrajectoryMatching().check_tolerance
    # Along the first step's adjoint no unit crosses its kink.
    assert error_of_a_step(case, 1e-5) < tolerance / 5
    found = case.gradient("finite_difference", relative_epsilon=1e-5)
    assert unroll_error(found, case.gradient("full"), inner_products) > 100
    choice = checked(case)
    assert choice.against == "exact"
    assert choice.error > 1
    assert chosen(case, exact=False).error > 1


@pytest.mark.parametrize("exact", [True, False])
# The tolerance is that of test_unroll: the error of NFNet is 1.05e-3 on some processors.
@pytest.mark.parametrize(("difference", "tolerance"), [("central", 2e-3), ("forward", 1e-2)])
@pytest.mark.parametrize("name", ["nfnet", "vit", "lora vit", "head only"])
def test_smooth_students_pass_with_a_suitable_epsilon(name: str, difference: str, tolerance: float, exact: bool) -> None:
    """The best epsilons differ by two orders of magnitude between students (docs/decisions.md)."""
    case = student_case(name)
    choice = chosen(case, difference, exact)
    assert 0 < choice.error < tolerance
    assert choice.against == ("exact" if exact else "another epsilon")
    found = case.gradient("finite_difference", difference, relative_epsilon=choice.relative_epsilon)
    # With an epsilon of 1e-5 for all students, the error would be 6e-3 and 1.3e-2.
    assert relative(flat(found), flat(case.gradient("full"))) < tolerance


@pytest.mark.parametrize("name", ["nfnet", "vit", "vit with checkpointing", "lora vit"])
def test_a_bf16_backbone_is_accurate_with_exact_and_not_with_differences(name: str) -> None:
    """`exact` keeps the accuracy of the bf16 passes; in finite differences rounding exceeds the difference."""
    case = student_case(name)
    full = case.gradient("full")
    case.student.model.bf16_backbone = True
    half = case.gradient("exact")
    assert 1e-4 < relative(flat(half), flat(full)) < 0.1
    assert flat(half).dtype == torch.float32
    assert chosen(case).error > 1.5 * TrajectoryMatching().check_tolerance


def test_the_best_step_is_chosen_and_a_known_one_is_measured_alone() -> None:
    case = dual_encoder_case()
    choice = checked(case)
    alone = {step: checked(case, step) for step in CANDIDATE_EPSILONS}
    assert all(found.relative_epsilon == step for step, found in alone.items())
    assert choice == min(alone.values(), key=lambda found: found.error)
    assert choice.error < max(found.error for found in alone.values()) / 10


def result(images: list[Tensor], texts: list[Tensor]) -> UnrollResult:
    return UnrollResult(torch.ones(2), [list(batch) for batch in zip(images, texts, strict=True)], torch.ones(2))


def test_the_error_is_of_all_steps_and_the_worse_of_images_and_texts() -> None:
    ones = [torch.ones(2, 3), torch.ones(2, 3)]
    wanted = result(ones, ones)
    assert unroll_error(wanted, wanted, inner_products) == 0
    # The error is in the second step alone: |off|^2 = 6 * 0.25, |wanted|^2 = 12.
    late = result([torch.ones(2, 3), torch.full((2, 3), 1.5)], ones)
    assert unroll_error(late, wanted, inner_products) == pytest.approx((1.5 / 12) ** 0.5)
    texts = result(late.batch_gradients[0][:1] * 2, [torch.full((2, 3), 3.0)] * 2)
    assert unroll_error(texts, wanted, inner_products) == pytest.approx(2)
    nothing = result([torch.zeros(2, 3)] * 2, ones)
    assert unroll_error(nothing, nothing, inner_products) == 0
    assert unroll_error(wanted, nothing, inner_products) == 1


@pytest.mark.parametrize("first", [True, False])
def test_an_epsilon_with_nan_gradients_is_never_chosen(first: bool) -> None:
    ones, broken = [torch.ones(2)], [torch.full((2,), torch.nan)]

    def by_differences(step: float) -> UnrollResult:
        return result(broken, ones) if step != 1e-4 and first else result(ones, broken if step != 1e-4 else ones)

    choice = choose_epsilon(by_differences, result(ones, ones), inner_products)
    assert (choice.relative_epsilon, choice.error) == (1e-4, 0)
    nothing = choose_epsilon(lambda step: result(broken, broken), result(ones, ones), inner_products)
    assert nothing.error == float("inf")


def test_every_candidate_epsilon_is_compared_with_another() -> None:
    """If `exact` does not fit into memory, an epsilon is compared with the next larger one, and the largest with the one
    below."""
    asked: list[float] = []

    def by_differences(step: float) -> UnrollResult:
        asked.append(step)
        return result([torch.tensor([1 + step])], [torch.ones(1)])

    for step, other in zip(CANDIDATE_EPSILONS, [*CANDIDATE_EPSILONS[1:], CANDIDATE_EPSILONS[-2]], strict=True):
        asked.clear()
        choice = choose_epsilon(by_differences, None, inner_products, step)
        assert asked == [step, other]
        assert choice.error == pytest.approx(abs(step - other), rel=0.01)


@pytest.mark.parametrize(
    ("model", "name", "kind"),
    [
        ("test_byobnet", "stem.bn.act", "ReLU"),
        ("mobilenetv2_050", "bn1.act", "ReLU6"),
        ("tf_mobilenetv3_small_minimal_100", "bn1.act", "ReLU"),
        ("test_resnet", "conv1.2", "ReLU"),
    ],
)
def test_kinked_backbones_are_refused_by_name(model: str, name: str, kind: str) -> None:
    student = dual_encoder_case(steps=1, model=model).student.model
    with pytest.raises(ConfigError, match=rf"image_backbone\.{name} is a {kind}, whose.*set distill.objective.gradient: exact"):
        refuse_kinked_student(student)


@pytest.mark.parametrize("model", ["test_nfnet", "nf_regnet_b1", "test_vit", "test_efficientnet", "test_convnext"])
def test_smooth_backbones_are_accepted(model: str) -> None:
    """NFNets and RegNets have ReLU only in their channel gates, where it does no harm."""
    with torch.device("meta"):
        assert first_kink(create_backbone(model, {}, pretrained=False, seed=0)) is None


def test_a_frozen_backbone_may_have_kinks() -> None:
    """A frozen backbone is not part of the unroll."""
    head = HeadSettings(kind="linear")
    refuse_kinked_student(dual_encoder_case(steps=1, model="test_resnet", train="head", head=head).student.model)


KINKS = [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(), nn.RReLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh()]
KINKS += [
    nn.SELU(),
    nn.Threshold(0, 0),
    nn.Softshrink(),
    nn.Hardshrink(),
    nn.ELU(0.5),
    nn.MaxPool2d(2),
    nn.AdaptiveMaxPool2d(1),
]
SMOOTH = [nn.GELU(), nn.SiLU(), nn.Mish(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.ELU(), nn.CELU(0.5), nn.AvgPool2d(2)]


@pytest.mark.parametrize("module", KINKS, ids=lambda module: type(module).__name__)
def test_kinds_with_kinks(module: nn.Module) -> None:
    assert first_kink(nn.Sequential(nn.Linear(2, 2), module)) == ("1", type(module).__name__)


@pytest.mark.parametrize("module", SMOOTH, ids=lambda module: type(module).__name__)
def test_smooth_modules_have_no_kink(module: nn.Module) -> None:
    assert first_kink(nn.Sequential(nn.Linear(2, 2), module)) is None


@pytest.mark.parametrize(("pool", "passes"), [(nn.AvgPool2d, True), (nn.MaxPool2d, False)], ids=["mean", "maximum"])
def test_max_pooling_is_a_kink(pool: type[nn.Module], passes: bool) -> None:
    """The reason why max pooling is rejected: in an otherwise smooth model, finite differences are accurate with average
    pooling, but not with max pooling."""
    case = larger_case(8, 0.05, model="test_resnet", model_args={"act_layer": "silu"})
    backbone = case.student.model.image_backbone
    assert first_kink(backbone) == ("maxpool", "MaxPool2d")
    backbone.maxpool = pool(3, 2, 1)
    error = checked(case).error
    assert error < 5e-3 if passes else error > 0.05
