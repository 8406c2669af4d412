"""A report from manifests: made-up evaluations, so that every number in it is known."""

import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.distilled_sets import distilled_set
from tests.monitoring.evaluations import commit_evaluations
from tests.run_status import RUN
from vldd_dist.artifacts import unit_writer
from vldd_dist.artifacts.facts import Recalls
from vldd_dist.artifacts.runs.run_status import read_statuses
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.cli.main import main
from vldd_dist.config.experiment import Experiment
from vldd_dist.data.facts import DatasetFacts, SharedCaptions, SplitFacts
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.monitoring.live.status import StatusWriter
from vldd_dist.monitoring.reports.report import GALLERIES, Reporter
from vldd_dist.monitoring.reports.report_files import read_tables
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.evaluation import EvaluationFacts
from vldd_dist.pipeline.stages.publication import PublicationFacts
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.work_unit import in_dependency_order
from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.reporting.data import Gallery, ValidationRecall
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run


def rows_of(store: Store, tree: Experiment) -> dict[str, Any]:
    Reporter(Graph(tree), store).write()
    return {row["method"]: row for row in json.loads(store.read(f"report/{tree.name}/summary.json"))["rows"]}


def test_spreads_over_runs_and_over_students_are_kept_apart(store: Store) -> None:
    tree = experiment("evaluation.seeds=[0, 1, 2]", "distill.seeds=[0, 1]", "coresets.methods=[random]", "experts.count=2")
    generator = np.random.default_rng(0)
    recalls = commit_evaluations(store, tree, iter(generator.uniform(1, 99, 100)))
    rows = rows_of(store, tree)
    assert {method: (row["runs"], row["students"]) for method, row in rows.items()} == {
        "full": (2, 2),
        "random": (3, 3),
        "distilled": (2, 6),
    }
    sets = [(unit.inputs["pairs"], recall) for unit, recall in recalls if "pairs" in unit.inputs]
    distilled = [(unit, recall) for unit, recall in sets if unit.kind == "distillation"]
    runs = [[recall for unit, recall in distilled if unit.spec["seed"] == seed] for seed in (0, 1)]
    assert rows["distilled"]["metrics"]["tr1"] == {
        "mean": pytest.approx(np.mean(runs)),
        "std_runs": pytest.approx(np.mean(runs, axis=1).std()),
        "std_students": pytest.approx(np.std(runs, axis=1).mean()),
    }
    experts = [recall for unit, recall in recalls if "expert" in unit.inputs]
    assert rows["full"]["metrics"]["tr1"]["std_runs"] == pytest.approx(np.std(experts))
    assert rows["full"]["metrics"]["tr1"]["std_students"] is None
    assert rows["random"]["metrics"]["tr1"]["std_students"] is None
    assert rows["distilled"]["of_full_data"] == pytest.approx(100 * np.mean(runs) / np.mean(experts))


def test_selections_of_the_same_images_are_counted(store: Store) -> None:
    """Herding makes no random choice, so that there are as many different selections as experts."""
    tree = experiment("evaluation.seeds=[0, 1, 2]", "coresets.methods=[random, herding]", "experts.count=2")
    commit_evaluations(store, tree, itertools.repeat(10.0))
    assert "selections" not in rows_of(store, tree)["herding"], "the selections are not in the store"
    graph = Graph(tree)
    selections = [graph.unit(*chosen.source) for chosen in evaluated_sets(tree) if chosen.method != "distilled"]
    run(store, in_dependency_order(selections))
    rows = rows_of(store, tree)
    assert rows["herding"]["selections"] == 2
    assert not any("selections" in rows[method] for method in ("full", "random", "distilled"))
    note = "± counts selections of the same images one by one. Different selections: herding 2 of 3 (4 pairs)."
    assert note in read_tables(store, tree.name)["recall"].notes


@pytest.mark.parametrize(("bad", "said"), [(0, ""), (1, "; left out: 1 image that"), (1200, "; left out: 1,200 images that")])
def test_images_that_were_left_out_are_counted_in_the_report(store: Store, bad: int, said: str) -> None:
    graph = Graph(experiment())
    unit, split = graph.unit("dataset"), SplitFacts(images=9, captions=9, shards=1, bytes=1, bad_images=0)
    splits = {"train": split, "val": split.model_copy(update={"bad_images": bad}), "test": split}
    facts = DatasetFacts(splits=splits, duplicates={}, image_size=32, source="scenes", licence="mit")
    UnitWriter(store, unit.kind, unit.id, {}, {}).commit(facts)
    sentence = Reporter(graph, store).collect().description["data"]
    assert sentence.endswith(f"images of 32 px{said} could not be used" if bad else "images of 32 px")


def test_the_page_states_the_outer_steps_of_each_phase(store: Store) -> None:
    """`distill.outer_steps` may be that of none of them."""
    phases = "distill.phases=[{pairs: 2, outer_steps: 30, objective: {inner_steps: 3}}, {outer_steps: 70}]"
    tree = experiment("distill.pairs=[4]", "distill.outer_steps=2000", "distill.objective.inner_steps=2", phases)
    said = Reporter(Graph(tree), store).collect().description["distillation"]
    first, second = (phase.objective.in_short() for phase in tree.distill.of_phases())
    assert said == f"phase 1: 30 outer steps, {first}; phase 2: 70 outer steps, {second}; {tree.distill.optimiser}"
    assert "3 inner steps" in first
    assert "2 inner steps" in second
    without = experiment("distill.outer_steps=7")
    said = Reporter(Graph(without), store).collect().description["distillation"]
    assert said == f"7 outer steps, {without.distill.objective.in_short()}, {without.distill.optimiser}"


def test_the_page_states_the_learning_rates_of_other_image_towers(store: Store) -> None:
    models = "evaluation.image_models=[test_resnet, {model: test_vit, model_args: {img_size: 32}, learning_rates: [0.3, 1]}]"
    tree = experiment("evaluation.learning_rates=[0.01, 0.1]", models)
    said = Reporter(Graph(tree), store).collect().description["evaluation"]
    assert said.endswith("learning rate chosen on validation from 0.01, 0.1; with test_vit: 0.3, 1")


def test_images_that_share_captions_are_in_the_report(store: Store) -> None:
    graph = Graph(experiment())
    unit, split = graph.unit("dataset"), SplitFacts(images=9, captions=9, shards=1, bytes=1, bad_images=0)
    shared = {"val": SharedCaptions(images=9, all_shared=0, some_shared=0)}
    shared["test"] = SharedCaptions(images=1009, all_shared=3, some_shared=1000)
    facts = DatasetFacts(
        splits=dict.fromkeys(("train", "val", "test"), split),
        duplicates={},
        shared_captions=shared,
        image_size=32,
        source="scenes",
        licence="mit",
    )
    UnitWriter(store, unit.kind, unit.id, {}, {}).commit(facts)
    sentence = Reporter(graph, store).collect().description["data"]
    assert "32 px; of 1,009 images of test, 3 have only captions that another one has too and 1,000 have some" in sentence
    assert "of val" not in sentence


def test_validation_recalls_of_coresets_are_those_at_the_chosen_learning_rates(store: Store) -> None:
    tree = experiment("evaluation.seeds=[0, 1]", "coresets.methods=[random]", "experts.count=1")
    chosen = {0: 30.0, 1: 40.0}
    for unit in Graph(tree).wanted("evaluation"):
        validation = [(0.1, 99.0), (0.3, chosen[unit.spec.get("seed", 0)])]
        facts = EvaluationFacts(
            test=Recalls.model_validate(dict.fromkeys(RECALL_METRICS, 50.0)),
            learning_rate=0.3,
            validation=[(rate, Recalls.model_validate(dict.fromkeys(RECALL_METRICS, recall))) for rate, recall in validation],
        )
        UnitWriter(store, unit.kind, unit.id, {}, {}).commit(facts)
    assert Reporter(Graph(tree), store).collect().validation == [ValidationRecall(method="random", pairs=4, mean=35.0)]


def test_the_report_shows_the_run_times_of_units(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each unit takes a second: its writer reads the clock at its start and at its commit.
    monkeypatch.setattr(unit_writer, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    tree = experiment("coresets.methods=[]", "experts.count=2", "evaluation.resources={cpus: 2}")
    found = commit_evaluations(store, tree, itertools.repeat(10.0))
    (cost,) = Reporter(Graph(tree), store).collect().costs
    assert [key for _, key in cost.units] == [f"units/evaluation/{unit.id}/manifest.json" for unit, _ in found]
    assert (cost.seconds, cost.core_seconds, cost.gpu_seconds, cost.untimed) == (len(found), 2 * len(found), 0, 0)
    # The resources in a later description do not matter.
    later = experiment("coresets.methods=[]", "experts.count=2", "evaluation.resources={cpus: 7, gpus: 1}")
    assert Reporter(Graph(later), store).collect().costs == [cost]


def test_rows_with_fewer_students_than_planned_are_named(store: Store) -> None:
    tree = experiment("evaluation.seeds=[0, 1, 2]", "coresets.methods=[random]", "experts.count=1")
    wanted = Graph(tree).wanted("evaluation")
    commit_evaluations(store, tree, itertools.repeat(10.0, len(wanted) - 1))
    rows = rows_of(store, tree)
    (partial,) = [name for name, row in rows.items() if row["students"] < row["planned"]]
    (table,) = (table for name, table in read_tables(store, tree.name).items() if name == "recall")
    (note,) = [note for note in table.notes if note.startswith("Incomplete")]
    assert note == f"Incomplete: {partial}, 4 pairs: 2 of 3 students."
    commit_evaluations(store, tree, itertools.repeat(10.0))
    rows_of(store, tree)
    assert not [note for note in read_tables(store, tree.name)["recall"].notes if note.startswith("Incomplete")]


def test_rows_without_any_student_are_named(store: Store) -> None:
    tree = experiment("evaluation.seeds=[0, 1, 2]", "coresets.methods=[random]", "experts.count=1")
    wanted = Graph(tree).wanted("evaluation")
    # Full data come first, then the coresets.
    commit_evaluations(store, tree, itertools.repeat(10.0, 4))
    assert len(wanted) == 7
    assert set(rows_of(store, tree)) == {"full", "random"}
    assert "Incomplete: distilled, 4 pairs: 0 of 3 students." in read_tables(store, tree.name)["recall"].notes


def test_sets_beyond_those_whose_images_are_shown_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = experiment(f"distill.pairs={list(range(2, GALLERIES + 3))}", "coresets.methods=[]", "experts.count=1")
    for unit in Graph(tree).wanted("publication"):
        facts = PublicationFacts(folder=f"distilled/{unit.id}", size_bytes=1, digest="0" * 64)
        UnitWriter(store, unit.kind, unit.id, {}, {}).commit(facts)
    gallery = Gallery(pairs=1, seed=0, items=[])
    monkeypatch.setattr("vldd_dist.monitoring.reports.report.write_gallery", lambda *arguments: gallery)
    data = Reporter(Graph(tree), store).collect()
    assert (len(data.galleries), data.galleries_left_out) == (GALLERIES, 1)


@pytest.mark.parametrize(("name", "data"), [("manifest.json", None), ("captions.jsonl", b"damaged")])
def test_a_set_that_is_missing_or_damaged_is_named_and_the_rest_is_shown(store: Store, name: str, data: bytes | None) -> None:
    tree = experiment("distill.pairs=[3, 4]", "coresets.methods=[]", "experts.count=1")
    commit_evaluations(store, tree, itertools.repeat(10.0))
    publications = Graph(tree).wanted("publication")
    for unit in publications:
        save(distilled_set(), store.url_of(f"distilled/{unit.id}"))
        facts = PublicationFacts(folder=f"distilled/{unit.id}", size_bytes=1, digest="0" * 64)
        UnitWriter(store, unit.kind, unit.id, {}, {}).commit(facts)
    lost = publications[0].id
    key = f"distilled/{lost}/{name}"
    before = store.read(key)
    store.delete([key])
    if data is not None:
        store.write(key, data)
    reporter = Reporter(Graph(tree), store)
    assert len(reporter.write()) == 1
    assert read_tables(store, tree.name).keys() == {"recall"}
    page = store.read(reporter.page).decode()
    assert f"distilled/{lost} is missing or damaged ({store.url_of(key)}: " in page
    assert "name the folder of a distilled set" not in page
    assert f"remove units/publication/{lost} and run again" in page
    assert len(reporter.collect().galleries) == len(publications) - 1
    store.write(key, before)
    data_again = reporter.collect()
    assert (len(data_again.galleries), data_again.damaged_sets) == (len(publications), [])


def test_two_experiments_in_one_store_have_reports_and_statuses_of_their_own(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, level in (("first", 10.0), ("second", 20.0)):
        tree = experiment(f"name={name}", f"seed={int(level)}")
        commit_evaluations(store, tree, itertools.repeat(level))
        rows_of(store, tree)
        state = RunState([writer := StatusWriter(store, name, RUN)])
        state.begin([], set())
        writer.ended_as = "done"
        writer.end()
    assert [status.experiment for status in read_statuses(store)] == ["first", "second"]
    assert len(store.keys("report")) == 2 * len({key.split("/")[-1] for key in store.keys("report")}) == 10
    for name, level in (("first", 10.0), ("second", 20.0)):
        table = read_tables(store, name)["recall"]
        assert table.title == f"{name}: recall"
        assert {row.cells[2].mean for section in table.sections for row in section.rows} == {level}
        assert json.loads(store.read(f"report/{name}/summary.json"))["rows"][0]["metrics"]["tr1"]["mean"] == level
        assert f"<h1>{name}</h1>" in store.read(f"report/{name}/index.html").decode()
    with pytest.raises(SystemExit):
        main(["status", store.url])
    told = capsys.readouterr().out
    for name in ("first", "second"):
        assert f"{name}: done" in told
        assert f"  report: {store.url_of(f'report/{name}/index.html')}\n" in told
