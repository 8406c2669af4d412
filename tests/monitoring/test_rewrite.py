"""`vldd report` makes the page again from the store alone."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cli.command import vldd
from tests.monitoring.evaluations import commit_evaluations
from tests.run_status import STATUS
from tests.studies import load_study
from vldd_dist.artifacts.runs.run_status import RunStatus, write_status
from vldd_dist.artifacts.runs.run_units import RunUnits, write_run_units
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import LoadedStudy, read_description
from vldd_dist.monitoring.reports.stored_description import write_description
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.data import dataset
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment


def started(store: Store, tree: Experiment) -> str:
    """Store what a run stores when it starts. Returns the run."""
    record = RunUnits.of(tree.name, ((unit.kind, unit.id) for unit in Graph(tree).units()))
    write_run_units(store, record)
    write_description(store, tree)
    return record.run


def test_a_report_includes_units_that_were_committed_since(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vldd("report", store.url, capsys=capsys)
    assert (code, "no report is in this store" in err) == (4, True)
    tree = experiment("coresets.methods=[random]", "experts.count=1", "distill.pairs=[3]")
    started(store, tree)
    page = store.url_of(f"report/{tree.name}/index.html")
    assert vldd("report", store.url, capsys=capsys) == (0, f"{page}\n", "")
    summary = f"report/{tree.name}/summary.json"
    assert json.loads(store.read(summary))["rows"] == []
    commit_evaluations(store, tree, iter([25.0] * 9))
    assert vldd("report", store.url, tree.name, capsys=capsys)[0] == 0
    assert {row["metrics"]["tr1"]["mean"] for row in json.loads(store.read(summary))["rows"]} == {25.0}
    code, _, err = vldd("report", store.url, "other", capsys=capsys)
    assert (code, f"has no report of other: it has {tree.name}" in err) == (2, True)


def test_a_report_is_left_as_it_is_where_the_units_have_other_ids(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = experiment("coresets.methods=[random]", "experts.count=1", "distill.pairs=[3]")
    started(store, tree)
    commit_evaluations(store, tree, iter([25.0] * 9))
    assert vldd("report", store.url, capsys=capsys)[0] == 0
    written = {key: store.read(key) for key in store.keys(f"report/{tree.name}")}
    assert b"25.0" in written[f"report/{tree.name}/table.md"]
    monkeypatch.setitem(vars(dataset.STAGE), "version", 99)
    code, _, err = vldd("report", store.url, capsys=capsys)
    assert (code, err.count("\n"), "have other ids than when it started" in err) == (2, 1, True)
    assert {key: store.read(key) for key in store.keys(f"report/{tree.name}")} == written


def test_a_report_has_the_status_of_its_own_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    tree = experiment("coresets.methods=[random]", "experts.count=1", "distill.pairs=[3]")
    own = started(store, tree)
    for run in ("00000000", own, "ffffffff"):
        fields = {"experiment": tree.name, "run": run, "notices": [f"said by {run}"]}
        write_status(store, RunStatus.model_validate(STATUS | fields))
    assert vldd("report", store.url, capsys=capsys)[0] == 0
    page = store.read(f"report/{tree.name}/index.html").decode()
    assert re.findall("said by ([0-9a-f]{8})", page) == [own]


def test_a_run_whose_driver_died_is_shown_as_interrupted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    tree = experiment("coresets.methods=[random]", "experts.count=1", "distill.pairs=[3]")
    own = started(store, tree)
    stages = {kind: {"total": 2, "done": 1, "failed": 0} for kind in ("evaluation", "dataset", "distillation", "expert")}
    fields = {"experiment": tree.name, "run": own, "stages": stages, "written_at": "2026-01-01T00:00:00+00:00"}
    write_status(store, RunStatus.model_validate(STATUS | fields))
    assert vldd("report", store.url, capsys=capsys)[0] == 0
    page = store.read(f"report/{tree.name}/index.html").decode()
    assert "interrupted" in page
    assert "its driver has died or cannot reach the store" in page
    for said in ('http-equiv="refresh"', STATUS["time_left"], "updated about every minute"):
        assert said not in page
    assert re.findall("<li><span>([a-z ]+)</span>", page) == ["dataset", "experts", "distillations", "evaluations"]


def test_without_the_data_the_last_page_is_named(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    tree = experiment()
    lost = tree.tree()
    lost["data"]["source"] = {"name": "folder", "path": "gone"}
    store.write(f"report/{tree.name}/description.json", json.dumps(lost).encode())
    code, _, err = vldd("report", store.url, capsys=capsys)
    assert code in (2, 4)
    assert f"the report that the run last wrote is {store.url}" in err


@pytest.mark.parametrize(("damaged", "said"), [(b"{", "not JSON"), (b"[]", "is not a description")])
def test_a_damaged_description_is_named(damaged: bytes, said: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.write("report/scenes/description.json", damaged)
    code, _, err = vldd("report", store.url, capsys=capsys)
    assert (code, err.count("\n")) == (4, 1)
    assert "report/scenes/description.json: " in err
    assert said in err
    assert "run the experiment again to have it rewritten" in err


def test_a_study_is_read_as_it_ran(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    tree = {"name": "epochs", "base": "scenes", "set": {"experts.epochs": 9}, "vary": {"distill.pairs": [[3], [4]]}}
    path.write_text(yaml.safe_dump(tree))
    again = read_again(load_study(path, ["experts.epochs=7"]))
    assert {one.experts.epochs for one in again.experiments.values()} == {7}


def test_a_plugin_that_is_written_as_its_name_is_read_as_it_ran(tmp_path: Path) -> None:
    base = yaml.safe_load(Path("jobs/presets/scenes.yaml").read_text())
    base["model"]["loss"] = "infonce"
    variants = {"a": {}, "b": {"model.loss": "wbce"}}
    tree = {"name": "losses", "base": base, "set": {"model.loss.temperature": 0.3}, "variants": variants}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    study = load_study(tmp_path / "study.yaml", ["model.loss.temperature=0.4"])
    assert study.experiments["a"].model.loss.temperature == 0.4
    read_again(study)


@pytest.mark.parametrize("preset", ["paper-scenes", "paper-flickr30k"])
def test_a_study_with_tables_is_read_as_it_ran(preset: str) -> None:
    study = load_study(preset, [])
    assert read_again(study).study.tables == study.study.tables


def read_again(study: LoadedStudy) -> LoadedStudy:
    again = read_description(json.loads(json.dumps(study.tree())), "x")
    assert isinstance(again, LoadedStudy)
    assert again.experiments == study.experiments
    return again
