"""`vldd gc --keep` frees exactly the units that no kept description needs."""

from pathlib import Path

import pytest
import yaml

from tests.cli.command import vldd
from tests.committed_units import NOW, committed, done
from vldd_dist.artifacts.runs.run_status import RunStatus, write_status
from vldd_dist.artifacts.runs.run_units import RunUnits, write_run_units
from vldd_dist.monitoring.reports.stored_description import write_description
from vldd_dist.pipeline.stages.data import dataset
from vldd_dist.store.store import Store

pytestmark = pytest.mark.usefixtures("any_facts")

DEAD = {"written_at": "2026-01-01T00:00:00+00:00"}


def test_published_sets_are_not_removed_without_a_description_to_keep(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    committed(store, "name=kept")
    before = store.keys("distilled")
    code, said, err = vldd("gc", store.url, "--published", "--delete", *NOW, capsys=capsys)
    assert (code, said, "--published: requires --keep CONFIG" in err) == (2, "", True)
    assert store.keys("distilled") == before != []


def test_units_that_no_kept_description_needs_are_removed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, needed = committed(store, "name=kept")
    _, other = committed(store, "name=other", "seed=5", "distill.outer_steps=7")
    config = tmp_path / "kept.yaml"
    config.write_text(yaml.safe_dump(kept.model_dump(mode="json")))
    everything, shared = {unit.id for unit in other}, {unit.id for unit in needed}
    # The objects are recent, so that nothing is freed.
    assert "0 objects (0 units" in vldd("gc", store.url, "--keep", str(config), "--delete", capsys=capsys)[1]
    code, said, _ = vldd("gc", store.url, "--keep", str(config), *NOW, capsys=capsys)
    assert (code, done(store, other)) == (0, everything), "listed, not removed"
    assert f"({len(everything - shared) - 1} units and sets that are not needed)" in said, "all but the publication"
    assert vldd("gc", store.url, "--keep", str(config), "--delete", *NOW, capsys=capsys)[0] == 0
    publication = {unit.id for unit in other if unit.kind == "publication"}
    assert done(store, other) == shared & everything | publication
    assert done(store, needed) == shared
    assert len(store.keys("distilled")) == 4
    blobs = [store.read(key) for key in store.keys("blobs")]
    assert b"shared by all" in blobs
    assert {blob.decode() for blob in blobs} == shared | publication | {"shared by all"}
    assert vldd("gc", store.url, "--keep", str(config), "--published", "--delete", *NOW, capsys=capsys)[0] == 0
    assert {key.split("/")[1][:4] for key in store.keys("distilled")} == {"kept"}
    assert done(store, other) == shared & everything


def test_units_of_running_runs_and_of_the_latest_run_of_a_name_are_kept(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, units = committed(store, "name=running", "seed=5")
    kept, own = committed(store, "name=kept")
    record = RunUnits.of("running", ((unit.kind, unit.id) for unit in units))
    changed, more = committed(store, "name=kept", "seed=6")
    write_run_units(store, RunUnits.of("kept", ((unit.kind, unit.id) for unit in more)))
    write_description(store, changed)
    config = tmp_path / "kept.yaml"
    config.write_text(yaml.safe_dump(kept.model_dump(mode="json")))
    fields = {"experiment": "running", "run": record.run, "state": "running", "stages": {}, "running": []}
    fields |= {"time_left": "", "notices": []}
    write_status(store, RunStatus.model_validate(fields))
    arguments = ("gc", store.url, "--keep", str(config), "--published", "--delete", *NOW)
    key = f"runs/running/{record.run}.json"
    for damage in (None, b"{}"):
        if damage:
            store.write(key, damage)
        code, _, err = vldd(*arguments, capsys=capsys)
        assert (code, err.count("\n"), f"{store.url_of(key)}: " in err) == (4, 1, True)
        assert "(running is running, and the units that it needs are not known: wait for its end)" in err
    status = f"status/old/{'0' * 8}.json"
    store.write(status, b"{}")
    code, _, err = vldd(*arguments, capsys=capsys)
    assert (code, f"{store.url_of(status)}: " in err, err.endswith("if it has ended, remove the file)\n")) == (4, True, True)
    store.delete([status])
    write_run_units(store, record)
    # The second time, the status is like that of a driver that died long ago.
    for written_at in ({}, DEAD):
        write_status(store, RunStatus.model_validate(fields | written_at))
        assert "0 objects (0 units" in vldd(*arguments, capsys=capsys)[1]
        assert all(done(store, one) == {unit.id for unit in one} for one in (units, own, more))
    store.write(key, b"{}")
    assert vldd(*arguments, capsys=capsys)[0] == 0
    assert done(store, units) == {unit.id for unit in own + more} & {unit.id for unit in units}


def test_ended_runs_of_a_kept_name_are_named_and_their_records_removed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The latest run of the name, that of the given description, and one that is running are kept, and so are other names."""
    configs, runs, units = [], {}, {}
    for number, name in enumerate(["ended", "given", "running", "latest", "other"]):
        experiment, of_run = committed(store, "name=" + ("kept-other" if name == "other" else "kept"), f"seed={number}")
        record = RunUnits.of(experiment.name, ((unit.kind, unit.id) for unit in of_run))
        write_run_units(store, record)
        state = "running" if name == "running" else "done"
        fields = {"experiment": experiment.name, "run": record.run, "state": state, "stages": {}, "running": []}
        write_status(store, RunStatus.model_validate(fields | {"time_left": "", "notices": []}))
        write_description(store, experiment)
        runs[name], units[name] = f"{experiment.name}/{record.run}", of_run
        configs.append(tmp_path / f"{name}.yaml")
        configs[-1].write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    arguments = ("gc", store.url, "--keep", str(configs[1]), "--published")
    assert "ended runs" not in vldd(*arguments, capsys=capsys)[1], "the records are recent"
    code, said, _ = vldd(*arguments, "--delete", *NOW, capsys=capsys)
    assert (code, f"or the version of vldd_dist: {runs.pop('ended')}. To keep those" in said) == (0, True)
    for folder in ("runs", "status"):
        assert store.keys(folder) == sorted(f"{folder}/{run}.json" for run in runs.values())
    assert {name for name, of_run in units.items() if done(store, of_run) == {unit.id for unit in of_run}} == {
        "given",
        "running",
        "latest",
    }
    assert "ended runs" not in vldd(*arguments, "--delete", *NOW, capsys=capsys)[1]


def test_nothing_is_removed_where_the_units_have_other_ids(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, units = committed(store, "name=kept")
    write_run_units(store, RunUnits.of("kept", ((unit.kind, unit.id) for unit in units)))
    write_description(store, kept)
    config = tmp_path / "kept.yaml"
    config.write_text(yaml.safe_dump(kept.model_dump(mode="json")))
    arguments = ("gc", store.url, "--keep", str(config), "--published", "--delete", *NOW)
    assert vldd(*arguments, capsys=capsys)[0] == 0
    assert done(store, units) == {unit.id for unit in units}
    monkeypatch.setitem(vars(dataset.STAGE), "version", 99)
    code, _, err = vldd(*arguments, capsys=capsys)
    assert (code, err.count("\n"), "nothing was removed" in err) == (2, 1, True)
    assert done(store, units) == {unit.id for unit in units}
    # The sentence says how to go on.
    store.delete(["report/kept/description.json"])
    assert vldd(*arguments, capsys=capsys)[0] == 0
    assert done(store, units) < {unit.id for unit in units}


def test_a_description_without_a_unit_in_the_store_keeps_nothing_and_is_refused(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was renamed for the next run, whose data are other ones. One that was only renamed has units there."""
    ran, units = committed(store, "name=first")
    write_run_units(store, RunUnits.of("first", ((unit.kind, unit.id) for unit in units)))
    write_description(store, ran)
    config = tmp_path / "next.yaml"
    renamed = ran.model_dump(mode="json") | {"name": "second"}
    arguments = ("gc", store.url, "--keep", str(config), "--delete", *NOW)
    config.write_text(yaml.safe_dump(renamed | {"data": renamed["data"] | {"image_size": 24}}))
    code, _, err = vldd(*arguments, capsys=capsys)
    assert (code, "nothing of it is in" in err, "which has the runs of first: name the description" in err) == (2, True, True)
    assert done(store, units) == {unit.id for unit in units}
    config.write_text(yaml.safe_dump(renamed))
    assert vldd(*arguments, capsys=capsys)[0] == 0
    assert done(store, units) == {unit.id for unit in units}
