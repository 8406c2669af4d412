"""The study of scenes, shortened: its units are run in this process, and its real command finds them done. For an added
variant, the command runs the new units, with real Ray processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.studies import load_study
from vldd_dist.method_names import FULL
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.reporting.tables.table import Statistic, Table
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_experiment import run

pytestmark = pytest.mark.ray

PRESET = "jobs/presets/paper-scenes.yaml"
SHORT = [
    "data.train_images=48",
    "data.val_images=12",
    "data.test_images=12",
    "data.shard_images=16",
    "pretrain.images=32",
    "pretrain.epochs=1",
    "experts.count=1",
    "experts.epochs=2",
    "experts.batch_size=16",
    "distill.outer_steps=2",
    "distill.objective.inner_steps=2",
    "distill.validate_every=2",
    "evaluation.seeds=[0]",
    "evaluation.epochs=1",
    "evaluation.learning_rates=[0.03]",
]
SETS = [part for override in SHORT for part in ("--set", override)]


def vldd(*arguments: str) -> str:
    command = [sys.executable, "-m", "vldd_dist.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "store"
    run(Store(str(folder)), StudyGraph(load_study(PRESET, SHORT).experiments).units())
    return folder


@pytest.fixture(scope="module")
def printed(store: Path) -> str:
    """The output of the command."""
    return vldd("run", PRESET, "--store", str(store), *SETS)


def finished(store: Path) -> set[str]:
    return {manifest.parent.name for manifest in (store / "units").glob("*/*/manifest.json")}


def test_every_table_is_complete(store: Path, printed: str) -> None:
    study = load_study(PRESET, SHORT)
    graphs = StudyGraph(study.experiments).graphs
    tables = json.loads((store / "report/paper-scenes/tables.json").read_text())["tables"]
    assert list(tables) == list(study.study.tables)
    for name, tree in tables.items():
        table, settings = Table.model_validate(tree), study.study.tables[name]
        assert table.title == settings.title
        cells = [cell for section in table.sections for row in section.rows for cell in row.cells]
        figures = [cell for cell in cells if isinstance(cell, Statistic)]
        assert figures
        # Each method of each variant has a row, or a column under each metric; full data that variants share occur once.
        variants = settings.variants or list(study.experiments)
        experts = {tuple(unit.id for unit in graphs[variant].wanted("expert")) for variant in variants}
        limited = [method for method in settings.methods if method != FULL]
        full = (1 if len(experts) == 1 else len(variants)) if FULL in settings.methods else 0
        wanted = len(variants) * len(limited) + full
        assert len(figures) >= wanted * len(settings.metrics)
        assert [note for note in table.notes if note.startswith("Incomplete")] == []
        assert not [column for column in table.columns if column.head == ""]


def test_it_finds_everything_done_and_prints_the_tables(store: Path, printed: str) -> None:
    assert finished(store) == {unit.id for unit in StudyGraph(load_study(PRESET, SHORT).experiments).units()}
    assert "0 to run" in printed
    for table in load_study(PRESET, SHORT).study.tables.values():
        assert table.title in printed
    assert vldd("table", str(store), "paper-scenes", "--table", "lora", "--as", "latex").count("\\toprule") == 1


def test_a_variant_added_later_runs_only_what_is_new(store: Path, tmp_path: Path) -> None:
    before = finished(store)
    tree = yaml.safe_load(Path(PRESET).read_text())
    tree["variants"]["five-steps"] = {"distill.outer_steps": 5}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    vldd("run", str(tmp_path / "more.yaml"), "--store", str(store), *SETS)
    new = [unit for unit in StudyGraph(load_study(tmp_path / "more.yaml", SHORT).experiments).units() if unit.id not in before]
    assert sorted(unit.kind for unit in new) == ["distillation", "evaluation", "publication"]
    assert finished(store) - before == {unit.id for unit in new}
