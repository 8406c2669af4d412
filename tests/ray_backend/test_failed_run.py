"""A run that an error ends midway, without Ray."""

import io
from typing import Any

import pytest
from rich.console import Console

from vldd_dist.artifacts.runs.run_status import read_statuses
from vldd_dist.artifacts.units import is_store
from vldd_dist.errors import ConfigError
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
    monkeypatch.setattr(run, "RayExecutor", refuse)
    with pytest.raises(ConfigError, match=SENTENCE):
        run.run_description(experiment(), store, Console(file=printed))
    # It may take a minute.
    assert "starting Ray on this machine" in printed.getvalue()
    # Workers do not run in a store without a mark.
    assert is_store(store)
    (status,) = read_statuses(store)
    for said in (status, reported[-1]):
        assert (said.state, said.notices[-1]) == ("failed", SENTENCE)  # type: ignore[union-attr]
