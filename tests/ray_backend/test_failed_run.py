"""What a run says at its end, without Ray: after an error midway, and when all units were done before."""

import io
from typing import Any

import pytest
from rich.console import Console

from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.runs.run_status import read_statuses
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import is_store
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.publication import PublicationFacts
from vldd_dist.ray_backend import run
from vldd_dist.reporting.data import RunProgress
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment

SENTENCE = "expert 0 asks for more than the cluster has: lower experts.resources"


def test_status_and_report_say_what_ended_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[RunProgress] = []
    printed = io.StringIO()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    class Recorder:
        page = "report/x/index.html"

        def __init__(self, *arguments: Any) -> None: ...

        def write(self, progress: RunProgress) -> None:
            reported.append(progress)

    def refuse(*arguments: Any) -> None:
        raise ConfigError(SENTENCE)

    monkeypatch.setattr("vldd_dist.monitoring.reports.report.Reporter", Recorder)
    monkeypatch.setattr(run, "connected_executor", refuse)
    with pytest.raises(ConfigError, match=SENTENCE):
        run.run_description(experiment(), store, Console(file=printed))
    # It may take a minute.
    assert "starting Ray on this machine" in printed.getvalue()
    # Workers do not run in a store without a mark.
    assert is_store(store)
    (status,) = read_statuses(store)
    for said in (status, reported[-1]):
        assert (said.state, said.notices[-1]) == ("failed", SENTENCE)  # type: ignore[union-attr]


def test_a_run_names_the_sets_that_it_has_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        page = "report/x/index.html"

        def __init__(self, *arguments: Any) -> None: ...

        def write(self, *arguments: Any) -> list[Any]:
            return []

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("vldd_dist.monitoring.reports.report.Reporter", Nothing)
    monkeypatch.setattr("vldd_dist.artifacts.manifests.UnitManifest.check_facts", lambda self, source: None)
    tree = experiment("distill.pairs=[2, 3, 4]")
    units = Graph(tree).units()
    sets = [f"distilled/{unit.id}" for unit in units if unit.kind == "publication"]
    for unit in units:
        published = PublicationFacts(folder=f"distilled/{unit.id}", size_bytes=1, digest="0" * 64)
        UnitWriter(store, unit.kind, unit.id, {}, {}).commit(published if unit.kind == "publication" else Facts())
    for most, named in ((3, 3), (2, 2)):
        monkeypatch.setattr(run, "MOST_SETS", most)
        printed = io.StringIO()
        assert run.run_description(tree, store, Console(file=printed)) == 0
        lines = [f"set: {store.url_of(folder)}" for folder in sets[:named]]
        lines += [] if named == 3 else [f"further sets: 1 (`vldd list {store.url}` prints all)"]
        assert printed.getvalue().splitlines()[-len(lines) - 1 :] == [*lines, f"report: {store.url_of(Nothing.page)}"]
