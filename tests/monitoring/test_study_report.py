"""The report of a study, from a store in which its units were run."""

from pathlib import Path

import pytest
import yaml

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.loading.load_study import LoadedStudy, load_study
from vldd_dist.monitoring.reports.published_figures import published_of
from vldd_dist.monitoring.reports.report_files import read_tables
from vldd_dist.monitoring.reports.study_report import StudyReporter
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.reporting.study_tables import ALL_VARIANTS, RowKey
from vldd_dist.reporting.table import Statistic, Table
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import TINY
from vldd_dist.testing.experiments.tiny_experiment import run

VIT = {"model.image.model": "test_vit", "model.image.model_args": {"img_size": 32}}
TABLES = {
    "towers": {"title": "Towers", "methods": ["full", "random", "distilled"]},
    "wide": {"title": "Towers (R@1)", "variants": ["vit", "nfnet"], "across": "variant", "metrics": ["tr1", "ir1"]},
}


def written(folder: Path, variants: dict) -> LoadedStudy:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "towers", "base": "scenes", "variants": variants, "tables": TABLES}))
    return load_study(path, TINY)


def reported(study: LoadedStudy, store: Store) -> list[Table]:
    return StudyReporter(study.study, StudyGraph(study.experiments), store).write()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedStudy, Store]:
    folder = tmp_path_factory.mktemp("study")
    study, store = written(folder, {"nfnet": {}, "vit": VIT}), Store(str(folder / "store"))
    planned = reported(study, store)
    assert [table.sections for table in planned] == [[], []], "nothing is measured yet"
    assert all("vit, distilled, 4 pairs: 0 of 1 students" in " ".join(table.notes) for table in planned)
    run(store, StudyGraph(study.experiments).units())
    return study, store


def test_tables_show_what_is_committed_and_lie_in_the_store(finished: tuple[LoadedStudy, Store]) -> None:
    study, store = finished
    towers, wide = reported(study, store)
    labels = [[cell.text for cell in row.cells if cell.kind == "text"][:2] for one in towers.sections for row in one.rows]
    assert labels == [
        ["nfnet", "full data"],
        ["vit", "full data"],
        ["nfnet", "random"],
        ["nfnet", "distilled"],
        ["vit", "random"],
        ["vit", "distilled"],
    ]
    assert [column.key for column in wide.columns] == ["pairs", "tr1_vit", "tr1_nfnet", "ir1_vit", "ir1_nfnet"]
    assert list(read_tables(store, "towers").values()) == [towers, wide]
    assert store.read("report/towers/table.md").decode().startswith("## Towers\n")
    assert "model.image.model: test_vit" in store.read("report/towers/index.html").decode()


def test_figures_are_those_of_the_variants_evaluations(finished: tuple[LoadedStudy, Store]) -> None:
    study, store = finished
    _, wide = reported(study, store)
    for position, variant in ((1, "vit"), (2, "nfnet")):
        graph = StudyGraph(study.experiments).graphs[variant]
        (chosen,) = [chosen for chosen in evaluated_sets(graph.experiment) if chosen.method == "distilled"]
        (unit,) = [graph.unit("evaluation", *key) for key in chosen.evaluations()]
        cell = wide.sections[0].rows[0].cells[position]
        assert isinstance(cell, Statistic)
        assert cell.mean == pytest.approx(UnitReader(store, unit.kind, unit.id).facts["test"]["tr1"])


def test_adding_a_variant_keeps_existing_units(tmp_path: Path) -> None:
    first = StudyGraph(written(tmp_path, {"nfnet": {}, "vit": VIT}).experiments)
    later = StudyGraph(written(tmp_path, {"nfnet": {}, "vit": VIT, "noise": {"distill.initialise": "noise"}}).experiments)
    new = {unit.kind for unit in later.units() if unit.id not in {one.id for one in first.units()}}
    assert new == {"distillation", "evaluation", "publication"}


def test_published_full_data_is_shown_beside_full_data_of_all_variants(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    table = {"title": "T", "methods": ["full", "distilled"], "published": ["mdm-flickr30k"]}
    tree = {"name": "s", "base": "scenes", "variants": {"other": {}, "nfnet-bert": VIT}, "tables": {"one": table}}
    path.write_text(yaml.safe_dump(tree))
    published = published_of(load_study(path, TINY).study, "one")
    found = published(RowKey(ALL_VARIANTS, "full", 29_000, None), "mean")
    assert found is not None
    assert found == published(RowKey("nfnet-bert", "full", 29_000, None), "mean")
    assert published(RowKey("other", "full", 29_000, None), "mean") is None
