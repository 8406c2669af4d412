"""Settings of a distillation in the whole graph: what each one changes, and which combinations are rejected."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.unroll import EpsilonChoice
from vldd_dist.errors import ConfigError, VlddError
from vldd_dist.events import Notice, Progress, UnitReport
from vldd_dist.pipeline.context import read_tensors
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of


def losses_of(store: Store, tree: Experiment) -> torch.Tensor:
    """(S, 2): the terms of the loss at the start of each outer step."""
    (unit,) = units_of(tree, "distillation")
    curves = read_tensors(UnitReader(store, "distillation", unit.id), "curves.safetensors")
    return torch.stack([curves["terms.image"], curves["terms.text"]], dim=1)


# Which losses are the same as with the demo's settings: none; only the first, because the start is the same; or all, up to the
# error of an approximation.
NOTHING, FIRST, ALMOST = "nothing", "the first", "all, almost"


@pytest.mark.parametrize(
    ("overrides", "alike"),
    [
        (["distill.initialise=noise"], NOTHING),
        (["distill.initialise=k_means"], NOTHING),
        (["distill.initialise={images: noise, texts: real}"], NOTHING),
        (["distill.optimiser=sgd"], FIRST),
        (
            [
                "distill.objective.gradient=finite_difference",
                "distill.objective.difference=forward",
                "distill.objective.check_every=2",
            ],
            ALMOST,
        ),
        (["distill.objective.gradient=full"], ALMOST),
        (["distill.batch_size=2"], NOTHING),
        (["distill.lr_images=0"], FIRST),
        (["distill.lr_texts=0"], FIRST),
        (["distill.objective.gradient=tesla"], FIRST),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_distillations_with_other_settings_run(
    overrides: list[str], alike: str, finished: Store, without: Callable[[str], Store]
) -> None:
    store, tree = without("distillation"), experiment(*overrides)
    (unit,) = units_of(tree, "distillation")
    run(store, [u for u in Graph(tree).units() if u.kind in ("features", "distillation")])
    facts = UnitReader(store, unit.kind, unit.id).manifest.facts
    assert facts["start"]["initialise"] == tree.distill.initialise.name
    assert facts["start"]["fixed"] == sorted(tree.distill.fixed())
    assert [step for step, _ in facts["validation"]] == [0, 3, 6]
    if tree.distill.objective.gradient == "finite_difference":
        check = facts["objective"]["difference_check"]
        errors = [check["error"], *(error for _, error in check["later"])]
        assert [step for step, _ in check["later"]] == [2, 4]
        assert all(0 < error < tree.distill.objective.check_tolerance for error in errors)
    else:
        assert facts["objective"] == {}
    wanted, found = losses_of(finished, experiment()), losses_of(store, tree)
    assert torch.allclose(found[0], wanted[0], rtol=1e-5) is (alike != NOTHING)
    if alike == ALMOST:
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)
    else:
        assert not torch.allclose(found[1], wanted[1], rtol=1e-3)


def test_student_dropout_changes_the_first_loss(without: Callable[[str], Store]) -> None:
    store, base = without("expert"), ["model.text.head.dropout=0.3", "distill.outer_steps=2", "experts.count=1"]
    losses = []
    for dropout in ("false", "true"):
        tree = experiment(*base, f"distill.objective.dropout={dropout}")
        run(store, [unit for unit in Graph(tree).units() if unit.kind in ("expert", "distillation")])
        losses.append(losses_of(store, tree))
    assert not torch.equal(losses[0][0], losses[1][0])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["distill.lr_images=1e30", "distill.optimiser=sgd"], r"nan.* at outer step \d"),
        (["distill.objective.max_loss=0.01", "distill.outer_steps=40"], r"the outer loss averages .* up to 19"),
    ],
)
def test_divergence_names_the_step_and_the_setting_to_lower(
    overrides: list[str], sentence: str, without: Callable[[str], Store]
) -> None:
    store, tree = without("distillation"), experiment(*overrides)
    with pytest.raises(VlddError, match=rf"{sentence}.*lower distill.lr_images"):
        run(store, units_of(tree, "distillation"))


def test_a_distillation_that_diverged_goes_on_from_its_checkpoint_under_another_limit(without: Callable[[str], Store]) -> None:
    store, steps = without("distillation"), "distill.outer_steps=22"
    with pytest.raises(VlddError, match=r"up to 19, more than distill.objective.max_loss \(0\.01\)"):
        run(store, units_of(experiment("distill.objective.max_loss=0.01", steps), "distillation"))
    events: list[UnitReport] = []
    run(store, units_of(experiment("distill.objective.max_loss=null", steps), "distillation"), events.append)
    assert [event.done for event in events if isinstance(event, Progress)] == [19, 20, 21, 22]


def test_differences_on_a_network_with_kinks_are_refused_before_anything_is_made(without: Callable[[str], Store]) -> None:
    """By the plan, and by the distillation unit itself, if the plan was made elsewhere."""
    kinked, differences = "model.image.model=test_resnet", "distill.objective.gradient=finite_difference"
    sentence = r"image_backbone\.conv1\.2 is a ReLU.*set distill.objective.gradient: exact"
    with pytest.raises(ConfigError, match=sentence):
        Graph(experiment(kinked, differences))
    store, tree = without("distillation"), experiment(kinked)
    run(store, units_of(tree, "expert"))
    (unit,) = units_of(tree, "distillation")
    changed = unit.execution["settings"] | {
        "objective": unit.execution["settings"]["objective"] | {"gradient": "finite_difference"}
    }
    unit = replace(unit, execution=unit.execution | {"settings": changed})
    with pytest.raises(ConfigError, match=sentence):
        run(store, [unit])


def test_differences_that_drift_stop_the_run(without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that passed at the start does not hold for later pairs."""
    store, check = without("distillation"), LocalUnroller.check_differences

    def drifting(self: LocalUnroller, *arguments: Any) -> EpsilonChoice:
        found = check(self, *arguments)
        return found if arguments[-1] is None else found._replace(error=found.error + 0.5)

    monkeypatch.setattr(LocalUnroller, "check_differences", drifting)
    tree = experiment("distill.objective.gradient=finite_difference", "distill.objective.check_every=3")
    events: list[UnitReport] = []
    with pytest.raises(
        ConfigError, match=r"at outer step 3 finite_difference is off by 0\.5.* against exact over 2 inner steps"
    ):
        run(store, units_of(tree, "distillation"), events.append)
    notice, *steps = events
    assert isinstance(notice, Notice)
    assert "finite differences are off by" in notice.text
    assert [event.done for event in steps if isinstance(event, Progress)] == [1, 2, 3]
    last = steps[-1]
    assert isinstance(last, Progress)
    assert last.difference_error is not None
    assert 0 < last.difference_error < 0.05
