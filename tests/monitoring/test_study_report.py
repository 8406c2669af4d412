"""The report of a study, from a store in which its units were run."""

import json
from pathlib import Path

import pytest
import yaml

from tests.studies import load_study
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.loading.descriptions import LoadedStudy, read_description
from vldd_dist.config.study import TableSettings
from vldd_dist.errors import ConfigError
from vldd_dist.monitoring.reports import study_report
from vldd_dist.monitoring.reports.measured import Measured
from vldd_dist.monitoring.reports.published_figures import check_published, published_of
from vldd_dist.monitoring.reports.report_files import read_tables
from vldd_dist.monitoring.reports.study_report import StudyReporter
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.pipeline.stages.publication import PublicationFacts
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.work_unit import in_dependency_order
from vldd_dist.reporting.data import MeasuredSplit
from vldd_dist.reporting.tables.set_sizes import COUNTED
from vldd_dist.reporting.tables.study_tables import ALL_VARIANTS, RowKey
from vldd_dist.reporting.tables.table import Statistic, Table
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


def test_test_splits_of_several_data_sets_are_compared_by_their_content(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "study.yaml"
    variants = {"all": {}, "few": {"data.train_images": 32}, "other": {"seed": 1}}
    path.write_text(yaml.safe_dump({"name": "s", "base": "scenes", "variants": variants}))
    graphs = StudyGraph(load_study(path, TINY).experiments).graphs
    datasets = [graph.unit("dataset") for graph in graphs.values()]
    run(store, in_dependency_order(datasets))
    measured = Measured(store)
    measured.refresh(datasets)
    splits = measured.test_splits(graphs)
    assert {(split.images, split.captions) for split in splits.values()} == {(12, 60)}
    assert splits["all"] == splits["few"] != splits["other"]

    store.delete([key for key in store.keys("units/shard_group") if "fingerprints" in key])
    damaged = Measured(store)
    damaged.refresh(datasets)
    assert len({split.content for split in damaged.test_splits(graphs).values()}) == 3, "no two are taken for equal"


def test_figures_are_those_of_the_variants_evaluations(finished: tuple[LoadedStudy, Store]) -> None:
    study, store = finished
    _, wide = reported(study, store)
    for position, variant in ((1, "vit"), (2, "nfnet")):
        graph = StudyGraph(study.experiments).graphs[variant]
        (chosen,) = [chosen for chosen in evaluated_sets(graph.experiment) if chosen.method == "distilled"]
        (unit,) = [graph.unit("evaluation", *key) for key in chosen.evaluations()]
        cell = wide.sections[0].rows[0].cells[position]
        assert isinstance(cell, Statistic)
        assert cell.mean == pytest.approx(UnitReader(store, unit.kind, unit.id).manifest.facts["test"]["tr1"])


def test_sets_of_one_budget_have_the_sizes_of_the_published_sets(finished: tuple[LoadedStudy, Store]) -> None:
    study, store = finished
    graph = StudyGraph(study.experiments)
    (unit,) = graph.graphs["nfnet"].wanted("publication")
    size = UnitReader(store, unit.kind, unit.id).facts_as(PublicationFacts).size_bytes
    compared = study.study.model_copy(update={"tables": {"one": TableSettings(title="T", budgets={4: 5})}})
    (table,) = StudyReporter(compared, graph, store).write()
    assert COUNTED in table.notes
    assert f"the pairs: 4 pairs with 5: at most {size:,} bytes with {size * 5 // 4:,}." in " ".join(table.notes)


def test_figures_and_tables_of_a_study_are_of_the_same_splits_and_sizes(
    finished: tuple[LoadedStudy, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, store = finished
    with monkeypatch.context() as patched:
        patched.setattr(study_report, "sizes_with_similarity", lambda experiment, dim: {4: (3 * dim, 2 * dim)})
        towers, wide = reported(study, store)
    for table in (towers, wide):
        assert "50 % more for nfnet at 4 pairs" in " ".join(table.notes)

    def figures() -> int:
        (_, wide) = reported(study, store)
        page = store.read("report/towers/index.html").decode()
        assert ("different test splits" in " ".join(wide.notes)) == ("Mean of the six test recalls" not in page)
        return page.count("Mean of the six test recalls")

    assert figures()
    splits = {name: MeasuredSplit(images=images, captions=60) for name, images in (("nfnet", 12), ("vit", 13))}
    monkeypatch.setattr(Measured, "test_splits", lambda self, graphs: splits)
    assert not figures()


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


def test_published_figures_stand_beside_the_variants_of_the_published_methods() -> None:
    """At the budget of a row, and also after the study was stored with its run."""
    loaded = load_study("methods-flickr30k", ["data.source=scenes"])
    again = read_description(json.loads(json.dumps(loaded.tree())), "store")
    assert isinstance(again, LoadedStudy)
    for study in (loaded, again):
        check_published(study)
        published = published_of(study.study, "methods")
        found = {
            key: figure.mean
            for key in (
                RowKey("vldd", "distilled", 100, None),
                RowKey("vldd", "random", 200, None),
                RowKey("lors-100", "distilled", 99, None),
                RowKey("ptm-st-500", "distilled", 498, None),
                RowKey("apm", "distilled", 100, None),
            )
            if (figure := published(key, "mean"))
        }
        assert [(key.variant, key.pairs, mean) for key, mean in found.items()] == [
            ("vldd", 100, 20.4),
            ("vldd", 200, 8.6),
            ("lors-100", 99, 27.4),
            ("ptm-st-500", 498, 40.6),
        ]


@pytest.mark.parametrize("preset", ["paper-flickr30k", "paper-coco", "paper-scenes", "methods-flickr8k"])
def test_each_published_table_of_a_preset_has_a_figure(preset: str) -> None:
    check_published(load_study(preset))


@pytest.mark.parametrize(
    ("published", "sentence"),
    [
        (
            ["lors-flickr30k"],
            r"tables\.methods\.published: lors-flickr30k has no figure for any row of this table .*: remove it, or",
        ),
        ({"ptm-st-100": ["ptm-st-flickr30k"]}, r"ptm-st-flickr30k has no figure for any row of ptm-st-100 "),
        (
            {"apm": ["vldd-lora-flickr30k"]},
            r"published\.apm: vldd-lora-flickr30k has the variants vit-bert, vit-lora-bert: give",
        ),
        ({"apm": ["lors"]}, r"tables\.methods\.published: there is no published table 'lors'"),
    ],
)
def test_a_published_table_without_a_figure_for_any_row_is_refused(
    published: list | dict, sentence: str, tmp_path: Path
) -> None:
    tree = yaml.safe_load(Path("jobs/presets/methods-flickr30k.yaml").read_text())
    tree["tables"]["methods"]["published"] = published
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=sentence) as raised:
        check_published(load_study(tmp_path / "study.yaml"))
    assert "\n" not in str(raised.value)
