"""Images or texts with a learning rate of 0, which keep their starting values."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distillation.small_runs import PAIRS, SETTINGS, Inputs, distillation, losses_of, start_pairs, stopped_run
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching, TrajectoryMatchingProblem
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.distillation.unroll import Unroll
from vldd_dist.store.store import Store
from vldd_dist.testing.unroll_cases import dual_encoder_case, relative

RATES = {"images": "lr_images", "texts": "lr_texts", "log_rates": "lr_rates"}
GRADIENTS = ("full", "exact", "finite_difference", "tesla")


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("name", RATES)
def test_a_rate_of_zero_keeps_the_tensors(name: str, optimiser: str, inputs: Inputs, store: Store) -> None:
    _, run = losses_of(inputs, store, optimiser=optimiser, checkpoint_every=3, **{RATES[name]: 0.0})
    start, _ = start_pairs(inputs, SETTINGS)
    for key, value in (run.pairs.rows | run.pairs.shared).items():
        assert torch.equal(value, (start.rows | start.shared)[key]) is (key == name), key
    state = run.outer.rows_state() | run.outer.shared_state()
    assert {key.partition("/")[0] for key in state} == RATES.keys() - {name}
    kept, best = (run.pairs.rows | run.pairs.shared)[name], (run.best.rows | run.best.shared)[name]
    assert kept.data_ptr() == best.data_ptr(), "fixed tensors are stored once"


def outer_gradient(inputs: Inputs, store: Store, **changes: Any) -> dict[str, Tensor]:
    run = distillation(inputs, store, batch_size=3, **changes)
    run.problem.begin(run.pairs)
    return run.problem.gradient(0, run.pairs).row_gradients


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(("fixed", "learned"), [("images", "texts"), ("texts", "images")])
def test_fixing_images_or_texts_does_not_change_the_gradient_of_the_other(
    fixed: str, learned: str, gradient: str, inputs: Inputs, store: Store
) -> None:
    """With a frozen image backbone."""
    both, one = (outer_gradient(inputs, store, gradient=gradient, **rates) for rates in ({}, {RATES[fixed]: 0.0}))
    assert set(both) == {"images", "texts"}
    assert set(one) == {learned}
    tolerance = 1e-3 if gradient == "finite_difference" else 1e-6
    assert relative(one[learned], both[learned]) < tolerance


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("place", [0, 1])
def test_fixed_tensors_get_no_gradient(place: int, gradient: str) -> None:
    """For a student whose whole image tower is trained, so that its batches contain pixels."""
    case = dual_encoder_case()
    model, settings = case.student.model, TrajectoryMatching(gradient=gradient)
    unroller = LocalUnroller(model, case.student.layout.loss, settings, None)
    tracked: list[bool] = []
    entry: nn.Module = (model.image_backbone, model.text_head)[place]
    entry.register_forward_pre_hook(lambda _, given: tracked.append(given[0].requires_grad))
    outer = partial(matching_loss, start=case.theta, target=case.target, towers=unroller.towers)
    student_unroll = StudentUnroll(Unroll(case.theta, case.rates, case.batches, outer, unroller.towers), 11)
    unrolls = (student_unroll, replace(student_unroll, fixed=frozenset({place})))
    both, one = (unroller.gradient(unroll) for unroll in unrolls)
    in_both, in_one = tracked[: len(tracked) // 2], tracked[len(tracked) // 2 :]
    assert any(in_both)
    assert not any(in_one)
    for found, wanted in zip(one.batch_gradients, both.batch_gradients, strict=True):
        (tensor,) = found
        assert relative(tensor, wanted[1 - place]) < (1e-3 if gradient == "finite_difference" else 1e-6)
    assert relative(one.rate_gradients, both.rate_gradients) < 1e-6
    ends = matching_loss(case.theta, case.theta, case.target, case.student.towers)
    assert not torch.equal(one.terms, ends), "the student was trained"


def test_a_frozen_backbone_encodes_fixed_images_once_a_run(inputs: Inputs, store: Store) -> None:
    run = distillation(inputs, store, lr_images=0.0, batch_size=3, outer_steps=4)
    assert isinstance(run.problem, TrajectoryMatchingProblem)
    frozen, passed = run.problem.unroller.frozen_backbone, []
    assert frozen is not None
    # The first image of a size is also encoded to choose the layout.
    frozen.features(run.pairs.images[:1])
    frozen.backbone.register_forward_hook(lambda _, given, __: passed.append(len(given[0])))
    run.run()
    assert passed == [PAIRS]


@pytest.mark.parametrize("fixed", ["lr_images", "lr_texts"])
def test_a_resumed_run_gives_bit_identical_results(fixed: str, inputs: Inputs, tmp_path: Any) -> None:
    changes = {fixed: 0.0, "batch_size": 3, "outer_steps": 5, "checkpoint_every": 2}
    whole, _, resumed = stopped_run(inputs, tmp_path, 3, **changes)
    # Fixed tensors are read from the checkpoint too, because on another machine a start may differ by rounding.
    resumed.pairs.rows["images" if fixed == "lr_images" else "texts"].add_(1e-7)
    resumed.run()
    assert resumed.history == whole.history
    for ours, theirs in ((resumed.pairs, whole.pairs), (resumed.best, whole.best)):
        for name, value in (theirs.rows | theirs.shared).items():
            assert torch.equal((ours.rows | ours.shared)[name], value), name
