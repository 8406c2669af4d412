"""Which of a study's experiments a plan shows for a stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.cost_model.distillation_steps import objectives_without_costs
from vldd_dist.cost_model.memory_model import GIB
from vldd_dist.distillation.objectives import Objective
from vldd_dist.distillation.objectives.feature_matching import FeatureMatching
from vldd_dist.pipeline.stage import StageSpec, stage_of
from vldd_dist.planner import plan
from vldd_dist.planner.show_plan import _peak
from vldd_dist.plugins import OBJECTIVES
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment


class Estimates:
    """In place of `Estimator`: the memory of each experiment in GiB, by its name."""

    trace = None

    def __init__(self, needed: dict[str, int]) -> None:
        self.needed = needed

    def memory(self, described: Experiment, stage: StageSpec) -> dict[str, int]:
        return {"activations": self.needed[described.name] * GIB}


@pytest.mark.parametrize(
    ("memory_of_large", "memory_of_small", "shown"),
    [
        # `small` does not fit, whether or not it is known how much memory `large` has.
        (80, 24, "small"),
        (None, 24, "small"),
        # Both fit, or neither does.
        (80, 80, "large"),
        (40, 24, "large"),
    ],
)
def test_an_experiment_that_does_not_fit_is_shown_before_one_that_needs_more_and_fits(
    memory_of_large: int | None, memory_of_small: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator: Any = Estimates({"large": 60, "small": 30})
    planned = []
    for name, memory in (("large", memory_of_large), ("small", memory_of_small)):
        stated = [f"experts.resources.gpu_memory_gib={memory}"] if memory else []
        planned.append(plan.PlannedExperiment(experiment(f"name={name}", *stated), [], None, estimator))
    monkeypatch.setattr(plan, "suggest", lambda described, stage, limit, estimator: f"change {described.name}")
    need, notes = plan._need(replace(stage_of("expert"), traffic=None), planned)
    assert need is not None
    assert notes == []
    assert need.experiment == shown
    does_not_fit = (memory_of_large, memory_of_small) != (80, 80)
    assert need.suggestion == (f"change {shown}" if does_not_fit else None)


def test_a_plan_names_the_stages_whose_memory_is_not_estimated(tmp_path: Path) -> None:
    planned = plan.plan(load_experiment("scenes", []), Store(str(tmp_path / "store")))
    (note,) = [note for note in planned.notes if "memory of these stages is not estimated" in note]
    named, estimated = note.partition(": ")[2].split(", "), [need.stage.title for need in planned.needs]
    assert {"expert features", "coresets"} <= set(named)
    assert sorted([*named, *estimated]) == sorted(one.stage.title for one in planned.stages)


class Silent(Objective):
    """It says nothing about what its steps take."""

    name: str = "silent"

    def open(self, context: Any) -> Any:
        raise NotImplementedError


class ReadsUnknown(FeatureMatching):
    """It reads real pairs, and does not say how many."""

    needs: ClassVar[frozenset[str]] = frozenset({"real_batches"})
    name: str = "reads_unknown"

    def open(self, context: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("objective", "is_known"),
    # None: what the objective says; a plug-in that is entered for a study need not say it.
    [
        ("silent", False),
        ("reads_unknown", False),
        *((name, True if target.startswith("vldd_dist.") else None) for name, target in OBJECTIVES.entries.items()),
    ],
)
def test_the_memory_of_an_objective_without_costs_is_a_lower_bound(
    objective: str, is_known: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES.entries, "silent", f"{__name__}:Silent")
    monkeypatch.setitem(OBJECTIVES.entries, "reads_unknown", f"{__name__}:ReadsUnknown")
    monkeypatch.setattr(plan, "suggest", lambda described, stage, limit, estimator: "change")
    stage = replace(stage_of("distillation"), traffic=None, host_memory=None)
    # Some objectives need the features of a frozen backbone.
    frozen = ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16"]
    found = []
    for memory in (80, 24):
        overrides = [f"distill.objective={objective}", f"distill.resources.gpu_memory_gib={memory}", *frozen]
        described, estimator = load_experiment("scenes", overrides), Estimates({"scenes": 30})
        if is_known is None:
            is_known = not objectives_without_costs(described)
        need, notes = plan._need(stage, [plan.PlannedExperiment(described, [], None, estimator)])  # type: ignore[arg-type]
        assert need is not None
        said = [note for note in notes if f"the objective {objective} does not say what a step takes" in note]
        assert len(said) == len(notes) == (0 if is_known else 1)
        found.append((_peak(need), plan.fits(need)))
    assert found == ([("30.0 GiB", True), ("30.0 GiB", False)] if is_known else [("> 30.0 GiB", None), ("> 30.0 GiB", False)])
