"""Pairs learned in phases: each phase keeps the pairs of those before it, and students are trained on one after the other."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vldd_dist import load_distilled
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.facts import DatasetFacts
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.errors import ConfigError
from vldd_dist.models.losses import Learned
from vldd_dist.monitoring.reports.report import Reporter
from vldd_dist.pipeline.context import read_rows
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.expert import kept_epochs
from vldd_dist.pipeline.stages.publication import facts_of
from vldd_dist.plugins import OBJECTIVES
from vldd_dist.reporting.figures.experiment_figures import plots
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of

TREE = (
    "model.loss={name: wbce, similarity: {kind: full, lr: 0.1}}",
    "data.train_images=24",
    "experts.count=1",
    "distill.pairs=[5]",
    "distill.batch_size=2",
    "distill.outer_steps=3",
    "distill.validate_every=3",
    "distill.phases=[{pairs: 2, objective: {max_start_epoch: 0}}, {outer_steps: 4, objective: {min_start_epoch: 1}}]",
    "coresets.methods=[random]",
)


@pytest.mark.parametrize("initialise", ["real", "k_means"])
def test_no_image_starts_a_pair_of_two_phases(initialise: str, store: Store) -> None:
    """Eleven of twelve images are used. Without the exclusion, both phases would draw from all twelve."""
    tree = experiment(
        *("data.train_images=12", "data.shard_images=4", "experts.count=1", "experts.batch_size=6"),
        *("distill.pairs=[11]", "distill.phases=[{pairs: 5}, {}]", f"distill.initialise={initialise}"),
        *("distill.outer_steps=1", "distill.validate_every=1", "coresets.methods=[random]"),
    )
    units = [unit for unit in Graph(tree).units() if unit.kind not in ("evaluation", "coreset", "publication")]
    run(store, units)
    *_, last = units_of(tree, "distillation")
    keys = UnitReader(store, last.kind, last.id).manifest.facts["start"]["keys"]
    assert len(set(keys)) == len(keys) == 11


def test_a_run_in_phases_goes_through_all_stages(store: Store) -> None:
    tree = experiment(*TREE)
    assert kept_epochs(tree) == [0, 1, 2, 3]
    run(store, Graph(tree).units())
    first, last = units_of(tree, "distillation")
    readers = [UnitReader(store, unit.kind, unit.id) for unit in (first, last)]
    assert [reader.manifest.spec["settings"]["outer_steps"] for reader in readers] == [3, 4]
    assert [reader.manifest.facts["validation"][-1][0] for reader in readers] == [3, 4]
    starts = [reader.manifest.spec["settings"]["objective"] for reader in readers]
    assert [(one["min_start_epoch"], one["max_start_epoch"]) for one in starts] == [(0, 0), (1, 1)]

    earlier, pairs = (read_rows(reader, "pairs") for reader in readers)
    assert earlier["phase"].tolist() == [0, 0]
    assert pairs["phase"].tolist() == [0, 0, 1, 1, 1]
    assert pairs["number"].tolist() == [0, 1, 2, 3, 4]
    for name in ("images", "texts"):
        assert torch.equal(pairs[name][:2], earlier[name])
        starting = read_rows(readers[1], "start")[name]
        assert not any(torch.equal(one, other) for one, other in pairwise(starting))
    blocks = torch.tensor([[0, 0, 1, 1, 1]]) == torch.tensor([[0], [0], [1], [1], [1]])
    assert torch.equal(pairs["similarity"] * ~blocks, torch.zeros(5, 5))
    assert torch.equal(pairs["similarity"][:2, :2], earlier["similarity"])
    facts = [reader.manifest.facts["start"] for reader in readers]
    assert facts[1]["keys"][:2] == facts[0]["keys"]
    assert (len(facts[1]["keys"]), len(facts[1]["captions"])) == (5, 5)

    (published,) = units_of(tree, "publication")
    folder = store.url_of(UnitReader(store, published.kind, published.id).manifest.facts["folder"])
    found = load_distilled(folder)
    assert len(found) == 5
    assert [len(part) for part in found.as_datasets()] == [2, 3]
    assert torch.equal(found.as_datasets()[1][0]["images"], pairs["images"][2])
    card = Store(folder).read("README.md").decode()
    assert "losses = train_on(" in card
    assert "2 epochs of each of the 2 phases, one after the other" in card
    assert published.inputs["earlier.0"] == first
    assert found.facts["outer_steps_to_best"] == sum(reader.manifest.facts["best_step"] for reader in readers)

    curves = Reporter(Graph(tree), store).collect().distillations
    assert [(curve.name, len(curve.loss)) for curve in curves] == [("seed 0, phase 1 of 2", 3), ("seed 0, phase 2 of 2", 4)]
    titles = [plot.title for plot in plots(Reporter(Graph(tree), store).collect())]
    assert {f"Outer loss, 5 pairs, seed 0, phase {number} of 2" for number in (1, 2)} <= set(titles)
    both = Reporter(Graph(experiment(*TREE, "distill.pairs=[5, 6]")), store).collect().distillations
    assert [(curve.pairs, curve.phase) for curve in both] == [(5, "phase 1 of 2"), (5, "phase 2 of 2"), (6, "phase 1 of 2")]


def test_the_card_counts_the_outer_steps_of_all_phases() -> None:
    def run_facts(best_step: int) -> DistillationFacts:
        return DistillationFacts(best_step=best_step, best_validation=20.0, validation=[], start={})

    facts = {"earlier.0": run_facts(300), "earlier.1": run_facts(100)}
    context: Any = SimpleNamespace(
        roles=lambda prefix: [role for role in facts if role.startswith(prefix)],
        reader=lambda role: SimpleNamespace(facts_as=lambda kind: facts[role]),
        dataset=SimpleNamespace(
            facts=DatasetFacts(splits={}, duplicates={}, image_size=32, source="scenes", licence="unknown")
        ),
        spec={"resize": "squash", "licence": "unknown", "card": {}},
        order=SimpleNamespace(inputs={"distillation": ("distillation", "0123")}),
    )
    assert facts_of(context, run_facts(600), "trajectory_matching")["outer_steps_to_best"] == 1000


def test_the_first_phase_of_two_numbers_of_pairs_is_one_unit(store: Store) -> None:
    """The run without phases is another unit than the first phase of two."""
    tree = experiment(*TREE, "distill.pairs=[4, 5]")
    units = units_of(tree, "distillation")
    assert sorted(unit.spec["pairs"] for unit in units) == [2, 4, 5]
    alone = experiment(*TREE, "distill.phases=[]")
    assert not {unit.id for unit in units_of(alone, "distillation")} & {unit.id for unit in units}


@pytest.mark.parametrize(
    ("phases", "sentence"),
    [
        ("[{}]", "phases: give at least two phases, and set pairs in each but the last"),
        ("[{pairs: 2}, {pairs: 3}]", "phases: give at least two phases, and set pairs in each but the last"),
        ("[{pairs: 5}, {}]", "phases: of 5 pairs, the last phase gets 0, and needs 2: lower the pairs of the others"),
        ("[{pairs: 4}, {}]", "phases: of 5 pairs, the last phase gets 1, and needs 2: lower the pairs of the others"),
        (
            "[{pairs: 2, objective: {inner_step: 3}}, {}]",
            "phases.0.objective.inner_step: unknown key; did you mean 'inner_steps'",
        ),
        (
            "[{pairs: 2}, {objective: {name: covariance_matching}}]",
            "phases.1.objective: all phases have the same objective",
        ),
        (
            "[{pairs: 2}, {objective: {max_start_epoch: 9}}]",
            "distill.phases.1: distill.objective.max_start_epoch (9) + distill.objective.expert_epochs (1) = 10 is more than",
        ),
    ],
)
def test_invalid_phases_are_refused(phases: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        experiment(*TREE, f"distill.phases={phases}")
    assert sentence in str(refused.value)


@pytest.mark.parametrize("objective", ["{name: bilevel, teacher_weight: 0}", "{name: covariance_matching}"])
def test_an_objective_without_a_student_that_is_already_trained_is_refused(objective: str) -> None:
    with pytest.raises(ConfigError, match=r"distill\.phases: \w+ learns no pairs for students that are already trained"):
        experiment(f"distill.objective={objective}", "distill.phases=[{pairs: 2}, {}]")


class Scaled(TrajectoryMatching):
    """It learns a tensor of its own beside the inner learning rates."""

    name: str = "scaled"

    def learned_shared(self) -> dict[str, Learned]:
        return super().learned_shared() | {"log_scale": Learned(torch.zeros(1), 0.1)}


def test_an_objective_whose_tensors_each_phase_would_learn_anew_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES.entries, "scaled", f"{__name__}:Scaled")
    with pytest.raises(ConfigError, match=r"distill\.phases: each phase of scaled would learn its own log_scale"):
        experiment("distill.objective=scaled", "distill.phases=[{pairs: 2}, {}]")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("distill.workers=2", "distill.phases are learned by one process: set distill.workers to 1"),
        (
            "model.loss={name: infonce, learn_temperature: true}",
            "distill.phases: each phase would learn its own log_temperature",
        ),
    ],
)
def test_what_does_not_go_with_phases_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        experiment(*TREE, override)
    assert sentence in str(refused.value)
