"""Blended features (RepBlend) compared with the formula, differentiated by autograd."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.distillation.unroll import Unroll
from vldd_dist.testing.unroll_cases import Case, ScaledInfoNCE, dual_encoder_case, relative

BLEND = Blending(beta=1.0).of_step(seed=5)


def matrix(step: int, rows: int = 4) -> Tensor:
    """The matrix by which a step's mix multiplies its rows."""
    return BLEND.at(step)(torch.eye(rows))


def test_a_mix_combines_each_row_with_one_other_depending_on_seed_and_step() -> None:
    # lambda I + (1 - lambda) P with a permutation P: rows and columns sum to 1, and all off-diagonal values that are not 0 are
    # equal.
    lambdas = []
    for step in range(60):
        mixed, again = (BLEND.at(step)(torch.eye(50, dtype=torch.float64)) for _ in range(2))
        assert torch.equal(mixed, again)
        off = mixed[~torch.eye(50, dtype=torch.bool)]
        other = float(off.max())
        assert torch.allclose(off[off > 0], torch.tensor(other, dtype=torch.float64))
        assert torch.allclose(mixed.sum(0), torch.ones(50, dtype=torch.float64))
        assert torch.allclose(mixed.sum(1), torch.ones(50, dtype=torch.float64))
        lambdas.append(1 - other)
    # lambda is uniformly distributed.
    assert 0.4 < sum(lambdas) / 60 < 0.6
    assert min(lambdas) < 0.1 < 0.9 < max(lambdas)
    assert not torch.equal(Blending().of_step(seed=6).at(0)(torch.eye(50)), BLEND.at(0)(torch.eye(50)))
    narrow = [float(Blending(beta=1e6).of_step(seed=1).at(step)(torch.eye(50)).max(dim=0).values.min()) for step in range(9)]
    assert max(abs(value - 0.5) for value in narrow) < 0.01


def by_hand(case: Case) -> tuple[Tensor, list[Tensor]]:
    """The terms of the matching loss and the gradients of the batches; theta <- theta - rate grad loss(heads(M z), S)."""
    model, names = case.student.model, case.student.view.names
    batches = [[tensor.clone().requires_grad_() for tensor in batch] for batch in case.batches]
    theta = [tensor.clone().requires_grad_() for tensor in case.theta]
    for step, (features, texts, scales) in enumerate(batches):
        given = {tower: {} for tower in ("image_head", "text_head")}
        for name, tensor in zip(names, theta, strict=True):
            given[name.partition(".")[0]][name.partition(".")[2]] = tensor
        images = functional_call(model.image_head, given["image_head"], matrix(step) @ features)
        captions = functional_call(model.text_head, given["text_head"], matrix(step) @ texts)
        loss = case.student.layout.loss(images, captions, {"log_scales": scales}, {"log_temperature": case.shared[0]})
        gradients = torch.autograd.grad(loss, theta, create_graph=True)
        theta = [
            tensor - case.rates[tower] * gradient
            for tensor, gradient, tower in zip(theta, gradients, case.student.towers, strict=True)
        ]
    terms = []
    for tower in (0, 1):
        own = [i for i, owner in enumerate(case.student.towers) if owner == tower]
        far = sum(((theta[i] - case.target[i]) ** 2).sum() for i in own)
        terms.append(far / sum(((case.theta[i] - case.target[i]) ** 2).sum() for i in own))
    flat = [tensor for batch in batches for tensor in batch]
    return torch.stack(terms).detach(), list(torch.autograd.grad(terms[0] + terms[1], flat))


@pytest.mark.parametrize("gradient", ["full", "exact", "finite_difference"])
def test_the_gradient_is_that_of_mixed_features_and_unmixed_rows_of_the_loss(gradient: str) -> None:
    case = dual_encoder_case(train="head", head=HeadSettings(kind="linear"), loss=ScaledInfoNCE()).in_model_inputs()
    unroller = LocalUnroller(case.student.model, case.student.layout.loss, TrajectoryMatching(gradient=gradient), None)
    outer = partial(matching_loss, start=case.theta, target=case.target, towers=unroller.towers)
    unroll = Unroll(case.theta, case.rates, case.batches, outer, unroller.towers, case.shared)
    student_unroll = StudentUnroll(unroll, 11, blend=BLEND)
    epsilon = unroller.check_differences(student_unroll, None).relative_epsilon if gradient == "finite_difference" else None
    found, plain = (unroller.gradient(one, epsilon) for one in (student_unroll, replace(student_unroll, blend=None)))
    terms, gradients = by_hand(case)
    torch.testing.assert_close(found.terms, terms)
    tolerance = 2e-3 if gradient == "finite_difference" else 1e-5
    for ours, theirs in zip((tensor for batch in found.batch_gradients for tensor in batch), gradients, strict=True):
        assert relative(ours, theirs) < tolerance
    assert not torch.allclose(plain.terms, terms, rtol=1e-3)
