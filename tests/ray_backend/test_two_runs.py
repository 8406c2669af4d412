"""Two runs with the same name and store but other settings, each with its own driver, without Ray."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.cli.command import vldd
from tests.committed_units import NOW, SMALL, committed, done
from tests.data.sample_files import pair
from tests.studies import load_study
from vldd_dist.artifacts.keys import ManifestKey, prefix_of
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import InterruptedRun
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.pipeline.stages.data import shard_group
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.ray_backend import run
from vldd_dist.ray_backend.run_options import RunOptions
from vldd_dist.scheduler import controller
from vldd_dist.store.store import Store

pytestmark = pytest.mark.usefixtures("any_facts")


class NoReport:
    """Replaces a reporter, because the units of these tests have no results."""

    page = "report/x/index.html"

    def __init__(self, *arguments: Any) -> None: ...

    def write(self, *arguments: Any) -> list[Any]:
        return []


class Driver:
    """Runs experiments. Instead of starting Ray, it calls `meanwhile` and interrupts the run."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.monkeypatch = store, monkeypatch
        monkeypatch.setattr("vldd_dist.monitoring.reports.report.Reporter", NoReport)
        monkeypatch.setattr("vldd_dist.monitoring.reports.study_report.StudyReporter", NoReport)
        monkeypatch.setattr(run, "_set_lines", lambda *arguments: [])

    def interrupted(self, described: Any, meanwhile: Callable[[], Any] = lambda: None, until: str | None = None) -> str:
        """The output of the run."""
        said = io.StringIO()

        def no_ray(*arguments: Any) -> None:
            meanwhile()
            raise KeyboardInterrupt

        with self.monkeypatch.context() as patch:
            patch.setattr(run, "connected_executor", no_ray)
            with pytest.raises(InterruptedRun):
                run.run_description(described, self.store, Console(file=said, width=500), RunOptions(until))
        return said.getvalue()

    def finds_all_done(self, experiment: Experiment) -> None:
        assert run.run_description(experiment, self.store, Console(quiet=True)) == 0


@pytest.fixture
def driver(store: Store, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(store, monkeypatch)


def unfinished(store: Store, *overrides: str) -> tuple[Experiment, list[WorkUnit], set[str]]:
    """An experiment, its units, and the ids of the committed ones, which are all but the last."""
    experiment, units = committed(store, *overrides)
    store.delete([ManifestKey(prefix_of(units[-1].kind, units[-1].id)).key])
    return experiment, units, done(store, units)


def other_description(store: Store, folder: Path) -> str:
    """The file of another experiment, which is kept."""
    path = folder / "kept.yaml"
    path.write_text(yaml.safe_dump(committed(store, "name=kept")[0].model_dump(mode="json")))
    return str(path)


def free_all_but(config: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vldd("gc", store.url, "--keep", config, "--published", "--delete", *NOW, capsys=capsys)
    assert (code, err) == (0, "")


def test_a_run_keeps_its_units_after_another_one_of_its_name_ended(
    driver: Driver, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = other_description(store, tmp_path)
    experiment, units, needed = unfinished(store, "seed=5")
    other, others = committed(store, "seed=6")

    def meanwhile() -> None:
        driver.finds_all_done(other)
        free_all_but(config, store, capsys)
        assert done(store, units) == needed
        assert done(store, others) < {unit.id for unit in others}, "and those of the other, which ended, are freed"

    driver.interrupted(experiment, meanwhile)
    free_all_but(config, store, capsys)
    assert done(store, units) < needed, "nor are they kept after the end"


def test_a_run_keeps_its_units_although_its_data_and_the_code_change(
    driver: Driver, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = other_description(store, tmp_path), tmp_path / "data"
    for number in range(9):
        pair(data / f"{number}.jpg", f"caption {number}", number)
    source = [f"data.source={{name: folder, path: {data}}}", "data.split={val: 0.2, test: 0.2}", "experts.readers=1"]
    source += [f"data.{split}_images=null" for split in ("train", "val", "test")]
    experiment, units, needed = unfinished(store, *source)

    def meanwhile() -> None:
        pair(data / "new.jpg", "another caption", 3)
        free_all_but(config, store, capsys)
        assert done(store, units) == needed
        monkeypatch.setattr(shard_group, "STAGE", replace(shard_group.STAGE, version=99))
        stage_of.cache_clear()
        # The kept description has other units now, of which something must be in the store.
        other_description(store, tmp_path)
        free_all_but(config, store, capsys)
        assert done(store, units) == needed
        for path in data.iterdir():
            path.unlink()
        free_all_but(config, store, capsys)
        assert done(store, units) == needed

    try:
        driver.interrupted(experiment, meanwhile)
    finally:
        monkeypatch.undo()
        stage_of.cache_clear()


def test_a_resumed_run_says_that_it_runs_before_it_relies_on_what_is_committed(
    driver: Driver, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, _, _ = unfinished(store)
    listed = controller.committed_units

    def state() -> str:
        (one,) = json.loads(vldd("status", store.url, "--json", capsys=capsys)[1])["experiments"]
        assert store.exists(f"runs/{one['experiment']}/{one['run']}.json")
        return str(one["state"])

    seen: list[str] = []

    def listing(*arguments: Any) -> set[str]:
        seen.append(state())
        return listed(*arguments)

    driver.interrupted(experiment)
    assert state() == "stopped"
    monkeypatch.setattr(controller, "committed_units", listing)
    driver.interrupted(experiment, lambda: seen.append(state()))
    assert (seen, state()) == (["running", "running"], "stopped")


def test_the_same_run_is_the_same_outputs(driver: Driver, store: Store) -> None:
    experiment, _, _ = unfinished(store)

    def records() -> dict[str, bytes]:
        return {key: store.read(key) for key in store.keys("runs")}

    driver.interrupted(experiment)
    first = records()
    assert len(first) == len(store.keys("status")) == 1
    store.delete([key for key in store.keys("units") if "/expert/" in key])
    driver.interrupted(experiment, until="experts")
    for setting in ("experts.resources.cpus=2", "distill.checkpoint_every=1"):
        driver.interrupted(load_experiment("scenes", [*SMALL, setting]))
    assert records() == first
    driver.interrupted(load_experiment("scenes", [*SMALL, "seed=7"]))
    assert len(records()) == len(store.keys("status")) == 2


def test_a_run_says_that_another_driver_of_it_is_running(driver: Driver, store: Store) -> None:
    notice = "another driver of this run wrote its status"
    experiment, _, _ = unfinished(store)
    same = load_experiment("scenes", [*SMALL, "experts.resources.cpus=2"])
    said: list[str] = []
    assert notice not in driver.interrupted(experiment, lambda: said.append(driver.interrupted(same)))
    assert said[0].count(notice) == 1
    assert notice not in driver.interrupted(experiment), "both have ended"


def test_a_run_says_that_another_one_of_its_name_is_running(driver: Driver, store: Store, tmp_path: Path) -> None:
    notice = "another run of scenes with other settings ("
    experiment, _, _ = unfinished(store, "seed=5")
    other, _, _ = unfinished(store, "seed=6")
    study = tmp_path / "study.yaml"
    base = load_experiment("scenes", SMALL).model_dump(mode="json")
    study.write_text(yaml.safe_dump({"name": "scenes", "base": base, "vary": {"seed": [5, 6]}}))
    said: list[str] = []

    def meanwhile() -> None:
        # The last one is a second driver of the same run.
        said.extend(driver.interrupted(one) for one in (other, load_study(study), experiment))

    assert notice not in driver.interrupted(experiment, meanwhile)
    assert [one.count(notice) for one in said] == [1, 1, 0]
    assert "give one a name of its own with --set name=..." in said[0]
    # `vldd status` shows only the run that ended last.
    assert sum(notice in store.read(key).decode() for key in store.keys("status")) == 2
    assert notice not in driver.interrupted(other), "all others have ended"
