"""The outer loss of the bilevel objective: the noise on the real pairs, who sees it, dropout, and the SGD of the student."""

import pytest
import torch
from torch import Tensor

from tests.pipeline.bilevel_by_hand import RATES, by_hand, context_of, contrast, described, found_gradient
from vldd_dist.distillation.objectives import bilevel
from vldd_dist.distillation.objectives.bilevel import BilevelProblem, with_noise
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.unroller import FeatureLoss
from vldd_dist.distillation.unroll import OuterLoss
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.parameters import ParameterView
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.seeding import derive_seed
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.unroll_cases import relative

STEP = 3


def test_all_features_get_noise_of_the_mean_deviation() -> None:
    """The features have standard deviations of 1 to 8 about a mean of 10."""
    inputs = torch.randn(4000, 8, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 9) + 10
    noisy = with_noise(RealRows(inputs, inputs, 4000), 0.5, torch.Generator().manual_seed(0))
    for noise in (noisy.inputs - inputs, noisy.texts - inputs):
        torch.testing.assert_close(noise.std(dim=0), torch.full((8,), 0.5 * 4.5), rtol=0.05, atol=0)
        torch.testing.assert_close(noise.mean(dim=0), torch.zeros(8), rtol=0, atol=0.15)


def test_student_and_experts_see_the_same_noisy_pairs(prepared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy: list[RealRows] = []
    seen: list[RealRows] = []
    loss_of_rows = LocalUnroller.loss_of_rows

    class Fixed:
        def __init__(self, *arguments: object) -> None:
            """Needs no experts."""

        def similarities(self, rows: RealRows) -> Tensor:
            seen.append(rows)
            return torch.eye(7)

    def recorded_noise(rows: RealRows, scale: float, generator: torch.Generator, ranks: Ranks) -> RealRows:
        noisy.append(with_noise(rows, scale, generator, ranks))
        assert float((noisy[0].inputs - rows.inputs).std()) > 0.1 * float(rows.inputs.std())
        return noisy[0]

    def recorded_rows(self: LocalUnroller, rows: RealRows, seed: int, loss: FeatureLoss) -> OuterLoss:
        seen.append(rows)
        return loss_of_rows(self, rows, seed, loss)

    monkeypatch.setattr(bilevel, "Teacher", Fixed)
    monkeypatch.setattr(bilevel, "with_noise", recorded_noise)
    monkeypatch.setattr(LocalUnroller, "loss_of_rows", recorded_rows)
    found_gradient(prepared, described(", teacher_weight: 0.5, noise_scale: 0.5"), STEP)
    assert len(noisy) == 1
    assert len(seen) == 2
    assert all(rows is noisy[0] for rows in seen)


def test_the_outer_loss_has_dropout_although_the_steps_have_none(prepared: Store) -> None:
    tree = described(", noise_scale: 0, dropout: false", "head", "model.text.head.dropout=0.5")
    context = context_of(prepared, tree)
    inputs = distillation_context(context, tree.distill.distillation_settings(), context.build_model(0))
    with inputs.settings.objective.open(inputs) as problem:
        assert isinstance(problem, BilevelProblem)
        theta = problem.fresh_start(1)
        found = problem._outer(STEP)(theta)
        rows = problem.real.rows(STEP)
    model, names = inputs.model, ParameterView(inputs.model).names
    seed = derive_seed(derive_seed(0, "distillation", 5), "outer loss", STEP)
    by_mode = {}
    for training in (True, False):
        model.train(training)
        with replayed_randomness(seed, 0, torch.device("cpu")):
            features = torch.func.functional_call(model, dict(zip(names, theta, strict=True)), (rows.inputs, rows.texts))
        by_mode[training] = contrast(features)
    torch.testing.assert_close(found[0], by_mode[True])
    assert abs(float(found[0] - by_mode[False])) > 1e-3


def test_the_student_has_the_momentum_and_the_weight_decay_asked_for(prepared: Store) -> None:
    sgd = [
        f"{key}={value}"
        for name, value in (("momentum", 0.5), ("weight_decay", 0.05))
        for key in (f"evaluation.{name}", f"distill.objective.student_{name}")
    ]
    tree = described(f", noise_scale: 0, inner_lr_image: {RATES[0]}, inner_lr_text: {RATES[1]}", "head", *sgd)
    found = found_gradient(prepared, tree, STEP)
    loss, wanted = by_hand(prepared, tree, STEP)
    assert found.terms["real_pairs"] == pytest.approx(loss.item(), rel=1e-4)
    gradients = found.row_gradients | found.shared_gradients
    for name, tensor in wanted.items():
        assert relative(gradients[name], tensor) < 1e-4, name
