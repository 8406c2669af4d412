"""What a plan says of applications, compared with what their runs do: passes counted exactly, operations by a counter."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.applications.small_experiment import PRESET, SMALL
from vldd_dist.applications.base import Application
from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.membership_inference import MembershipInference
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.cost_model.flop_trace import FlopCount
from vldd_dist.cost_model.io_model import DataSize, data_size
from vldd_dist.distillation.objectives.bilevel import BilevelCosts
from vldd_dist.distillation.objectives.costs import ObjectiveCosts
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.pipeline.stages.application import inputs_of, planned_run
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.document import plan_document
from vldd_dist.planner.estimator import Estimator
from vldd_dist.planner.plan import plan
from vldd_dist.plugins import APPLICATIONS
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import run, workspace

SEARCH = "{name: architecture_search, candidates: 3, joint_dims: [8, 32], epochs: 2, baselines: [random]}"
INFERENCE = "{name: membership_inference, references: 3}"
CONTINUAL = "{name: continual_learning, tasks: 3, pairs_per_task: 4, epochs: 2, baselines: [random], distill: %s}"
FEDERATED = (
    "{name: one_shot_federated, clients: 3, clusters: 2, pairs: 3, epochs: 2, rounds: [1, 3], baselines: [random], "
    "concentrations: [0.5, 2], distill: %s}"
)
NO_STUDENT = "{objective: {name: covariance_matching, train_model: false}, outer_steps: 3, validate_every: 2}"
UNROLLED = (
    "{objective: {name: bilevel, teacher_weight: 0, inner_steps: 3, skipped_steps: 0, real_batch_size: 32}, outer_steps: 3, "
    "validate_every: 2}"
)
TEXT_DIM = 384


def experiment(*applications: str) -> Experiment:
    changes = ["evaluation.learning_rates=[0.01, 0.02]", "evaluation.epochs=3", f"applications.run=[{', '.join(applications)}]"]
    return load_experiment(PRESET, [*SMALL, *changes])


class Planner:
    """The units of applications, with all of their inputs in a store."""

    def __init__(self, store: Store, *applications: str) -> None:
        self.store, self.experiment = store, experiment(*applications)
        graph = Graph(self.experiment)
        self.units = [unit for unit in graph.units() if unit.kind == "application"]
        wanted = {"application", "evaluation", "publication", "coreset"}
        run(store, [unit for unit in graph.units() if unit.kind not in wanted])
        self.trace = Estimator(TEXT_DIM).trace(self.experiment.model, self.experiment.data.image_size)
        dataset = graph.unit("dataset")
        size = data_size(self.experiment, UnitReader(store, dataset.kind, dataset.id))
        assert size is not None
        self.data: DataSize = size

    def planned(self, unit: WorkUnit) -> Planned:
        return planned_run(self.experiment, self.trace, self.data, unit)

    def flops(self, unit: WorkUnit) -> float:
        flops = stage_of("application").flops
        assert flops is not None
        found = flops(self.experiment, lambda *_: self.trace, self.data, unit)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("planned")))


def application_of(unit: WorkUnit) -> Application:
    application: Application = choose(APPLICATIONS, unit.spec["application"])
    return application


class OnlyPasses:
    """Costs with which operations are training passes of pairs."""

    training, encoding, text_encoding, pixels, joint_dim = 1.0, 0.0, 0.0, 0.0, 0
    freezes_backbone = has_features = True

    def second_order(self, fixed: frozenset[str]) -> float:
        raise AssertionError("no student is unrolled")


@contextmanager
def counted_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The pairs of each pass of a student in training mode."""
    passes: list[int] = []
    forward = DualEncoder.forward

    def counting(self: DualEncoder, inputs: torch.Tensor, *others: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            passes.append(len(inputs))
        return forward(self, inputs, *others)

    with monkeypatch.context() as patched:
        patched.setattr(DualEncoder, "forward", counting)
        yield passes


@pytest.mark.parametrize("number", range(4))
def test_the_passes_of_a_plan_are_those_of_the_run(number: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Planner(store, SEARCH, INFERENCE, CONTINUAL % NO_STUDENT, FEDERATED % NO_STUDENT)
    unit = planner.units[number]
    # Membership inference scores the nearest pairs without a student.
    planned = replace(planner.planned(unit), costs_of=lambda model: OnlyPasses(), pair_dim=0)
    given = inputs_of(workspace(store, unit))
    with counted_passes(monkeypatch) as passes:
        application_of(unit).run(given)
    assert application_of(unit).flops(planned) == sum(passes) > 0


@pytest.mark.parametrize("number", range(4))
def test_the_operations_of_a_plan_are_those_of_the_run(number: int, store: Store) -> None:
    planner = Planner(store, SEARCH, INFERENCE, CONTINUAL % UNROLLED, FEDERATED % UNROLLED)
    unit = planner.units[number]
    with FlopCount() as counted:
        application_of(unit).run(inputs_of(workspace(store, unit)))
    assert planner.flops(unit) == pytest.approx(counted.total, rel=0.15)


def planned_document(described: Experiment) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The need and the work of the applications, and the notes of a plan for an empty store."""
    document = plan_document(plan(described, None))
    (need,), (work,) = ([one for one in document[name] if one["kind"] == "application"] for name in ("needs", "work"))
    return need, work, document["notes"]


def test_a_plan_has_the_needs_and_the_hours_of_applications() -> None:
    need, work, _ = planned_document(load_experiment(PRESET, []))
    # 2,400 images with 192 features and 5 captions with 384 numbers each.
    assert need["host_memory_bytes"] == 4 * 2400 * (192 + 5 * 384)
    assert need["reads_bytes"] > need["host_memory_bytes"]
    assert need["peak_of"]["image backbone"] > 0
    assert (work["units"], work["unknown_units"]) == (4, 0)
    assert work["core_hours"] > 0
    assert need["of_estimated_dataset"] == ["host_memory_bytes", "reads_bytes"]


def test_a_plan_states_the_rates_that_its_hours_assume() -> None:
    document = plan_document(plan(load_experiment(PRESET, []), None))
    rate = document["assumed"]["core_flops_per_second"]
    assert document["total"]["core_hours"] == pytest.approx(document["total"]["pflop"] * 1e15 / rate / 3600)
    assert document["assumed"]["gpu_flops_per_second"] == 50e12


def test_the_peak_is_of_the_largest_student_or_of_the_distilled_images() -> None:
    def peak_of(*applications: str) -> dict[str, int]:
        terms: dict[str, int] = planned_document(experiment(*applications))[0]["peak_of"]
        return terms

    assert {"image backbone", "pairs", "activations"} <= peak_of(INFERENCE).keys()
    assert peak_of("continual_learning").keys() == {"student", "best so far", "momentum", "batch", "activations"}, (
        "no distilled images, and a tower that is smaller than a student with its batch"
    )
    large = peak_of("{name: architecture_search, candidates: 1, joint_dims: [2000]}")
    # Two heads with 2,000 outputs: a student, its copy and its momentum.
    assert large["student"] == large["best so far"] == large["momentum"] > 4 * 2000 * (192 + 384)


def test_applications_that_do_not_fit_get_advice() -> None:
    described = experiment(INFERENCE, "{name: architecture_search, candidates: 1, joint_dims: [200000]}")
    section = described.applications.model_copy(
        update={"resources": described.applications.resources.model_copy(update={"gpus": 1, "gpu_memory_gib": 1.5})}
    )
    need, work, _ = planned_document(described.model_copy(update={"applications": section}))
    assert need["fits"] is False
    assert "applications.resources" in need["suggestion"]
    assert work["gpu_hours"] > 0


@pytest.mark.parametrize("name", ["membership_inference", "continual_learning"])
def test_the_work_of_an_application_that_does_not_count_it_is_unknown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MembershipInference, "flops", Application.flops)
    # Continual learning counts its work, but not that of this objective.
    monkeypatch.setattr(BilevelCosts, "step_flops", ObjectiveCosts.step_flops)
    described = experiment(name)
    _, work, notes = planned_document(described)
    assert work["unknown_units"] == work["units"] == 1
    assert f"?: the work of applications is unknown, because the application {name} does not count its operations" in notes
