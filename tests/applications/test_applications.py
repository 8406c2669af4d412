"""All applications on built-in scenes, run as units of an experiment: units, tables, and figures in the expected ranges."""

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.methods.feature_space import FeatureSpace
from tests.applications.small_experiment import PRESET, experiment
from tests.applications.small_inputs import random_split, small_students
from vldd_dist.applications.architecture_search import kendall_tau
from vldd_dist.applications.continual_learning import Tasks, forgetting
from vldd_dist.applications.feature_space.inputs import Inputs, subset
from vldd_dist.applications.feature_space.part_distillation import PartDistillation
from vldd_dist.applications.feature_space.parts import dirichlet_clients
from vldd_dist.applications.feature_space.students import PairNumbers
from vldd_dist.applications.one_shot_federated import HELD_BACK, OneShotFederated
from vldd_dist.applications.result import Result, ResultRows
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.errors import ConfigError
from vldd_dist.monitoring.reports import measured
from vldd_dist.monitoring.reports.measured import Measured
from vldd_dist.monitoring.reports.report import Reporter
from vldd_dist.monitoring.reports.report_files import read_tables
from vldd_dist.pipeline.context import read_rows
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.application import ApplicationFacts, inputs_of, starting_numbers
from vldd_dist.reporting.tables.table import Statistic, Table
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import run, workspace

# Sizes of an image feature and of a caption embedding.
PAIR_KIB = (192 + 384) * 4 / 1024


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Store]:
    """The graph, and the store with all its units."""
    graph, store = Graph(experiment()), Store(str(tmp_path_factory.mktemp("applications")))
    run(store, graph.units())
    return graph, store


@pytest.fixture(scope="module")
def tables(finished: tuple[Graph, Store]) -> dict[str, Table]:
    """The tables of a report, after the whole run."""
    graph, store = finished
    Reporter(graph, store).write()
    return read_tables(store, "applications-scenes")


def figures(table: Table, method: str, setting: str = "") -> dict[str, Statistic]:
    """The figures of a row, by the key of the column."""
    (row,) = (
        row
        for section in table.sections
        for row in section.rows
        if section.title.startswith(setting) and row.cells[0].text == method
    )
    keys = [column.key for column in table.columns]
    return {key: cell for key, cell in zip(keys, row.cells, strict=True) if isinstance(cell, Statistic)}


def test_architecture_search(tables: dict[str, Table]) -> None:
    table = tables["architecture_search"]
    full, distilled, random = (figures(table, method) for method in ("full data", "distilled", "random"))
    assert (full["tau"].mean, full["regret"].mean) == (pytest.approx(1), 0)
    assert distilled["choice"].mean == pytest.approx(full["choice"].mean - distilled["regret"].mean)
    assert random["tau"].std_students is not None, "a selection for each seed"
    assert full["saved"].mean == 0


def test_only_distilled_pairs_depend_on_the_distilled_set(finished: tuple[Graph, Store]) -> None:
    graph, store = finished
    units = [unit for unit in graph.wanted("application") if "distillation" in unit.inputs]
    assert len(units) == 2
    for unit in units:
        results = UnitReader(store, unit.kind, unit.id).facts_as(ApplicationFacts).results
        assert {result.method for result in results if result.of_set} == {"distilled"} != {result.method for result in results}


def test_membership_inference(tables: dict[str, Table]) -> None:
    table = tables["membership_inference"]
    assert {section.title.partition(", ")[2] for section in table.sections} == {"20 pairs"}
    released = figures(table, "random", "members: the pairs that the set was initialised with")
    assert (released["auc_nearest"].mean, released["tpr_nearest"].mean, released["own"].mean) == (1, 100, 100)
    control = figures(table, "random", "members: the other training pairs")
    assert all(abs(control[f"auc_{attack}"].mean - 0.5) < 0.15 for attack in ("nearest", "loss", "ratio"))
    distilled = figures(table, "distilled", "members: the pairs that the set was initialised with")
    assert distilled["auc_nearest"].mean > 0.6, "after few outer steps the pairs are still near their start"


def test_continual_learning(tables: dict[str, Table]) -> None:
    table = tables["continual_learning"]
    memories = [figures(table, method) for method in ("random", "k-center", "herding", "distilled")]
    assert [one["kib"].mean for one in memories] == [pytest.approx(3 * 4 * PAIR_KIB)] * 4
    full = figures(table, "full data")
    assert "forgetting" not in full
    assert all(one["recall"].mean < full["recall"].mean for one in memories)


def test_one_shot_federated(tables: dict[str, Table]) -> None:
    table = tables["one_shot_federated"]
    once, twice, distilled = (figures(table, name) for name in ("FedAvg, 1 round", "FedAvg, 2 rounds", "distilled"))
    assert twice["kib"].mean == 2 * once["kib"].mean
    assert distilled["kib"].mean == figures(table, "random")["kib"].mean == pytest.approx(3 * 3 * PAIR_KIB)
    assert figures(table, "full data")["recall"].mean > distilled["recall"].mean


def test_the_tables_of_distilled_sets_state_the_bytes_of_a_learned_similarity(
    finished: tuple[Graph, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the features of real pairs, of which the same number is in the table."""
    graph, store = finished

    def sizes(experiment: Any, dim: int, image_dim: int) -> dict[int, tuple[int, int]]:
        plain = 4 * 20 * (dim + image_dim)
        assert plain == 20 * PAIR_KIB * 1024
        return {20: (plain + plain // 10, plain), 30: (2, 1)}

    monkeypatch.setattr(measured, "sizes_with_similarity", sizes)
    shown = Measured(store)
    shown.refresh(graph.units())
    stating = [name for name, table in shown.application_tables(graph).items() if "10 % more at 20 pairs. So" in str(table)]
    assert stating == ["architecture_search", "membership_inference"]


def test_rows_hold_a_value_for_each_seed_in_the_order_in_which_they_were_added() -> None:
    rows = ResultRows()
    for seed in (1.0, 2.0):
        rows.add("full data", {"recall": 10 * seed}, setting="b")
        rows.add("random", {"recall": seed, "kib": 3 * seed}, setting="a")
        rows.add("random", {"recall": -seed}, setting="b")
    assert rows.results(bounds=("full data",), without_set=("full data",)) == [
        Result(method="full data", setting="b", figures={"recall": [10, 20]}, bound=True, of_set=False),
        Result(method="random", setting="b", figures={"recall": [-1, -2]}),
        Result(method="random", setting="a", figures={"recall": [1, 2], "kib": [3, 6]}),
    ]


def feature_space(finished: tuple[Graph, Store]) -> FeatureSpace:
    graph, store = finished
    return FeatureSpace(graph.experiment, store, graph.unit("distillation", 20, 0))


def test_students_on_features_repeat_the_evaluations_of_coresets(finished: tuple[Graph, Store]) -> None:
    """They start from the same weights, and are trained and chosen by the same protocol. So recalls of different sets in the
    benchmark of methods can be compared with each other and with those of experiments."""
    graph, store = finished
    space = feature_space(finished)
    evaluations = [unit for unit in graph.wanted("evaluation") if "pairs" in unit.inputs]
    of_coresets = [unit for unit in evaluations if unit.inputs["pairs"].kind == "coreset"]
    assert of_coresets
    for unit in of_coresets:
        rows = read_rows(UnitReader(store, "coreset", unit.inputs["pairs"].id), "pairs")
        (recall,) = space.with_students([unit.spec["seed"]]).recalls(space.of_pixels(rows)).students
        assert recall == pytest.approx(UnitReader(store, "evaluation", unit.id).manifest.facts["test"]["mean"])


def test_a_distillation_in_feature_space_returns_the_pairs_that_validate_best(finished: tuple[Graph, Store]) -> None:
    space = feature_space(finished)
    pairs, validation = space.distill()
    assert pairs.rows["images"].shape == (20, 192)
    validating = space.students().with_seed(derive_seed(space.unit.spec["seed"], "validation"))
    assert validating.on_pairs(pairs, space.split("val")).validation == pytest.approx(validation)


def test_clients_share_out_the_images_and_a_small_concentration_makes_them_unlike() -> None:
    clusters = [torch.arange(start, start + 100) for start in (0, 100, 200, 300)]

    def largest_share(concentration: float) -> float:
        clients = dirichlet_clients(clusters, 4, concentration, 5, np.random.default_rng(0))
        assert torch.equal(torch.cat(clients).sort().values, torch.arange(400)), "each image is one client's"
        assert min(map(len, clients)) >= 5
        counts = torch.stack([torch.bincount(images // 100, minlength=4) / len(images) for images in clients])
        return float(counts.amax(dim=1).mean())

    assert largest_share(0.1) > largest_share(100) + 0.2
    with pytest.raises(ConfigError, match="fewer than 101 images: lower clients or pairs"):
        dirichlet_clients(clusters, 4, 1.0, 101, np.random.default_rng(0))


@pytest.mark.parametrize("pairs", [2, 91, 99, 100, 150, 200, 1000])
def test_the_smallest_client_has_the_pairs_that_it_uploads(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    application = OneShotFederated(pairs=pairs)
    images = application.least_images
    split = RetrievalSplit(torch.randn(images, 4), torch.randn(images, 4), torch.arange(images))
    given = []
    monkeypatch.setattr(PartDistillation, "run", lambda self, students, train, *rest: given.append(rest))
    application._distilled(None, split, np.random.default_rng(0))
    ((validation, start),) = given
    assert len(start.images) == pairs
    assert len(validation.inputs) >= 11, "not so few that recall is the same for all students"
    assert images - 1 - max((images - 1) // HELD_BACK, 11) < pairs, "no smaller client would do"


def test_forgetting_is_from_the_best_so_far() -> None:
    """Task 0 ends 30 below its best value of 50, and task 1 ends 10 above its earlier value."""
    assert forgetting([[40], [50, 20], [20, 30, 99]]) == pytest.approx((30 - 10) / 2)


def test_parts_are_checked_and_distilled_with_the_batches_of_the_evaluation() -> None:
    """A part's bilevel student takes the evaluation's batches, whatever the experiment's own distillation takes."""
    described = [
        "applications.run=[continual_learning]",
        "distill.pairs=[40]",
        "distill.objective=trajectory_matching",
        "experts.epochs=3",
    ]
    assert load_experiment(PRESET, [*described, "evaluation.batch_size=20"]).evaluation.batch_size == 20
    sentence = r"applications\.run, the distillation of a part: .*student_momentum"
    with pytest.raises(ConfigError, match=sentence):
        load_experiment(PRESET, [*described, "evaluation.momentum=0.5"])
    settings = PartDistillation()._settings(0.1, 20)
    assert settings.batch_size == 20


def test_pairs_that_validate_like_their_start_are_the_learned_ones() -> None:
    """On one validation image the recall of every student is 100: random pairs would be called distilled."""
    split, students = random_split(), small_students()
    start = PairNumbers(torch.arange(5), torch.arange(5))
    settings = PartDistillation(outer_steps=2, validate_every=2)
    learned = settings.run(students, split, subset(split, torch.tensor([9])), start).rows["images"]
    assert (learned != split.inputs[:5]).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", ["validation", "test"])
def test_tasks_that_recall_cannot_be_measured_on_are_refused(name: str) -> None:
    """Two tasks, whose captions are opposite: the second has ten images of one of the splits."""

    def of(first: int, second: int) -> RetrievalSplit:
        split = random_split(first + second)
        texts = torch.cat([torch.ones(first, 6), -torch.ones(second, 6)]) + 0.1 * split.texts
        return RetrievalSplit(split.inputs, texts, split.image_of_caption)

    splits = {"train": of(20, 20), "validation": of(11, 11), "test": of(11, 11)}
    assert len(Tasks(Inputs(**splits, students=small_students(), seeds=[0], seed=0), 2, 5).validation) == 2
    given = Inputs(**(splits | {name: of(11, 10)}), students=small_students(), seeds=[0], seed=0)
    with pytest.raises(ConfigError, match=rf"has 10 of the 11 {name} images .*: lower tasks, or take a larger {name}"):
        Tasks(given, 2, 5)


def test_kendall_tau_by_counting_pairs() -> None:
    """Five of the six pairs of four scores have the same order. If all scores of a list are equal, tau is 0."""
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx((5 - 1) / 6)
    assert kendall_tau([1, 2, 3], [5, 5, 5]) == 0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.image.weights=random", r"applications.run: students are trained on features of a frozen image backbone"),
        (
            "applications.run=[{name: continual_learning, tasks: 8, pairs_per_task: 2}]",
            r"continual_learning needs 88 val images \(11 for each task\), more than data\.val_images \(80\): lower tasks",
        ),
        (
            "applications.run=[{name: architecture_search, joint_dims: [8]}]",
            r"candidates \(36\) is more than the 9 that",
        ),
        (
            "applications.run=[{name: architecture_search, baselines: [forgetting]}]",
            r"forgetting: a baseline of applications selects real pairs by their features, without",
        ),
        (
            "applications.run=[{name: continual_learning, distill: {objective: bilevel}}]",
            r"distill.objective: bilevel needs experts, which a part of the data has none of: set its teacher_weight to 0",
        ),
        (
            "applications.run=[{name: continual_learning, pairs_per_task: 1}]",
            r"pairs_per_task: a contrastive loss compares",
        ),
        ("applications.run=[{name: one_shot_federated, pairs: 1}]", r"pairs: a contrastive loss compares pairs"),
        (
            "applications.run=[{name: continual_learning, tasks: 5, pairs_per_task: 31}]",
            r"continual_learning keeps 155 pairs .* more than the training images \(150\): lower tasks or pairs_per_task",
        ),
        (
            "applications.run=[{name: one_shot_federated, clients: 8, pairs: 9}]",
            r"needs 20 images for each of 8 clients, 160 in all, more than the training images \(150\): lower clients or pairs",
        ),
        (
            "model.loss={name: infonce, learn_temperature: true}",
            r"applications.run: each part's pairs would learn a log_temperature of their own: let model.loss learn none",
        ),
    ],
)
def test_wrong_settings_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        experiment(override)


def test_applications_change_no_other_unit() -> None:
    """Applications add units to an experiment, and change no other unit."""

    def ids(graph: Graph) -> set[str]:
        return {unit.id for unit in graph.units() if unit.kind != "application"}

    without = Graph(experiment("applications.run=[]"))
    assert ids(without) == ids(Graph(experiment()))
    assert not without.wanted("application")


@pytest.mark.parametrize(("images", "texts"), [("noise", "real"), ("real", "noise")])
def test_pairs_with_one_half_of_noise_do_not_count_as_initial_real_pairs(
    images: str, texts: str, finished: tuple[Graph, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise membership inference would count images or captions as members that initialised no pair."""
    graph, store = finished
    unit = next(unit for unit in graph.wanted("application") if "distillation" in unit.inputs)
    start = UnitReader(store, "distillation", unit.inputs["distillation"].id).manifest.facts["start"]
    context = workspace(store, unit)
    assert starting_numbers(context, start) is not None
    half = start | {"images": images, "texts": texts}
    assert starting_numbers(context, half) is None

    def half_real(start: dict[str, Any]) -> bool:
        facts_as = UnitReader.facts_as

        def changed(reader: UnitReader, kind: Any) -> Any:
            facts = facts_as(reader, kind)
            return facts.model_copy(update={"start": start}) if kind is DistillationFacts else facts

        with monkeypatch.context() as patched:
            patched.setattr(UnitReader, "facts_as", changed)
            return inputs_of(workspace(store, unit)).distilled_pairs().half_real

    assert half_real(half)
    assert not half_real(start)
    assert not half_real({"images": "noise", "texts": "noise"})
