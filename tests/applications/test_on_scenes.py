"""All applications on built-in scenes, by the units of an experiment; what they find is as it must be."""

import pytest

from vldd_dist.applications.architecture_search import kendall_tau
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.load import load_experiment
from vldd_dist.errors import ConfigError
from vldd_dist.monitoring.report import Reporter
from vldd_dist.monitoring.report_files import read_tables
from vldd_dist.pipeline.graph import Graph, make_graph
from vldd_dist.reporting.table import Statistic, Table
from vldd_dist.store.store import Store
from vldd_dist.testing.tiny_experiment import run

PRESET = "jobs/presets/applications-scenes.yaml"
APPLICATIONS = [
    "{name: architecture_search, candidates: 5, joint_dims: [4, 32], epochs: 2}",
]
SMALL = [
    "data.train_images=200",
    "data.val_images=60",
    "data.test_images=60",
    "data.shard_images=100",
    "pretrain.images=400",
    "pretrain.epochs=2",
    "distill.outer_steps=20",
    "distill.objective={name: bilevel, teacher: 0, real_batch_size: 100, inner_steps: 8, skipped_steps: 0}",
    "evaluation.epochs=20",
    "evaluation.learning_rates=[0.1]",
    "evaluation.seeds=[0, 1]",
    f"applications.run=[{', '.join(APPLICATIONS)}]",
]


def experiment(*overrides: str) -> Experiment:
    return load_experiment(PRESET, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """Of a report, after the whole run."""
    graph, store = make_graph(experiment()), Store(str(tmp_path_factory.mktemp("applications")))
    run(store, graph.units())
    Reporter(graph, store).write()
    return read_tables(store, "applications-scenes")


def figures(table: Table, method: str, setting: str = "") -> dict[str, Statistic]:
    """Of a row, by the column's key."""
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
    assert -1 <= distilled["tau"].mean <= 1
    assert distilled["choice"].mean == pytest.approx(full["choice"].mean - distilled["regret"].mean)
    assert random["tau"].std_students is not None, "a selection for each seed"
    assert full["saved"].mean == 0


def test_kendall_tau_by_counting_pairs() -> None:
    """Of the six pairs of four scores five are in the same order; and nothing agrees with a list that ranks nothing."""
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx((5 - 1) / 6)
    assert kendall_tau([1, 2, 3], [5, 5, 5]) == 0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.image.weights=random", r"applications.run: students are trained on features of a frozen image tower"),
        (
            "applications.run=[{name: architecture_search, joint_dims: [8]}]",
            r"candidates \(36\) is more than the 9 that",
        ),
        (
            "applications.run=[{name: architecture_search, baselines: [forgetting]}]",
            r"forgetting: a baseline of applications selects real pairs by their features, without",
        ),
    ],
)
def test_wrong_settings_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        experiment(override)


def test_applications_change_no_other_unit() -> None:
    """An experiment gains their units, and keeps what it had."""

    def ids(graph: Graph) -> set[str]:
        return {unit.id for unit in graph.units() if unit.kind != "application"}

    without = make_graph(experiment("applications.run=[]"))
    assert ids(without) == ids(make_graph(experiment()))
    assert not without.wanted("application")
