"""Which of a study's experiments a plan shows for a stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.cost_model.memory_model import GIB
from vldd_dist.pipeline.stage import StageSpec, stage_of
from vldd_dist.planner import plan
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
