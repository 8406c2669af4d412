"""The status of a run in the store, and how `vldd status` shows it."""

import io
import json
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tests.monitoring.run_at_work import Clock, state_at_work
from tests.run_status import RUN, STATUS
from vldd_dist.artifacts.runs.run_status import RunStatus, read_statuses, write_status
from vldd_dist.artifacts.units import mark_store
from vldd_dist.cli.main import main
from vldd_dist.errors import StoreError
from vldd_dist.events import Notice, Progress, UnitFailed, UnitFinished, UnitPaused, UnitReported, UnitRetried, UnitStarted
from vldd_dist.monitoring.live.console import PlainView
from vldd_dist.monitoring.live.descriptions import SILENT_SECONDS
from vldd_dist.monitoring.live.status import WRITE_SECONDS, StatusWriter, describe_status
from vldd_dist.store.store import Store


def test_the_status_in_the_store_shows_the_progress_of_a_run(store: Store) -> None:
    clock = Clock()
    writer = StatusWriter(store, "scenes", RUN)
    state, units = state_at_work([writer], clock)
    clock.now = 20
    state.event(UnitReported(units[1].id, Progress(5, 10, loss=1.5)))
    state.event(UnitRetried(units[1].id, "lost", "its machine ended"))
    state.event(UnitStarted(units[1].id))
    state.refresh()
    state.event(UnitReported(units[1].id, Progress(6, 10)))
    clock.now = 21
    # It is not written again yet.
    state.refresh()
    state.event(UnitFinished(units[1].id, 1))
    state.event(UnitStarted(units[2].id))
    state.event(UnitFailed(units[2].id, "refused", "a wrong key"))
    writer.ended_as = "failed"
    writer.end()
    (status,) = read_statuses(store)
    assert (status.state, status.stages["expert"].done, status.stages["expert"].failed) == ("failed", 2, 1)
    assert status.running == []
    assert [("retried" in notice, "a wrong key" in notice) for notice in status.notices] == [(True, False), (False, True)]


def test_a_run_that_was_interrupted_says_so_and_a_store_that_refuses_does_not_stop_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    writer = StatusWriter(store, "scenes", RUN)
    state, _ = state_at_work([writer], clock)

    def refuse(key: str, data: bytes) -> None:
        raise StoreError("no")

    assert writer._writing is not None
    writer._writing.result()
    clock.now = WRITE_SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(store, "write", refuse)
        state.refresh()
        writer._writing.result()
    writer.end()
    (status,) = read_statuses(store)
    assert status.state == "stopped"
    assert status.running[0].label == "expert 1"


def test_description_of_a_status(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    status = RunStatus.model_validate(STATUS)
    assert re.search(r":\d\d\.\d{6}\+00:00$", status.written_at)
    text = describe_status(status)
    assert "scenes: running" in text
    assert "1/3 done" in text
    assert "expert 1: 5/10, loss 1.500 (2 s)" in text
    assert "died" not in text
    dead = describe_status(status.model_copy(update={"written_at": "2026-01-01T00:00:00+00:00"}))
    assert "its driver has died" in dead
    assert "this machine's clock is ahead" in dead
    # By a driver whose clock is ahead.
    assert "written 0 s ago" in describe_status(status.model_copy(update={"written_at": "2099-01-01T00:00:00+00:00"}))
    mark_store(store)
    main_exits(["status", store.url])
    assert "no experiment has run in this store" in capsys.readouterr().out


def test_a_unit_that_reports_nothing_is_shown_as_silent_everywhere(store: Store) -> None:
    clock, output = Clock(), io.StringIO()
    writer = StatusWriter(store, "scenes", RUN)
    state, units = state_at_work([writer, PlainView(Console(file=output))], clock)
    state.event(UnitReported(units[1].id, Progress(5, 10)))
    clock.now = SILENT_SECONDS - 1
    assert "silent" not in describe_status(writer.now(state, "running"))
    clock.now = 7 * 60
    assert "expert 1: 5/10, silent for 7 min (7 min 00 s)" in describe_status(writer.now(state, "running"))
    state.refresh()
    assert "expert 1: 5/10, silent for 7 min" in output.getvalue()
    # Any report counts, although it reports no progress.
    state.event(UnitReported(units[1].id, Notice("a slow store")))
    assert "silent" not in describe_status(writer.now(state, "running"))
    writer.end()


def test_a_unit_that_pauses_for_long_is_a_notice(store: Store) -> None:
    writer = StatusWriter(store, "scenes", RUN)
    state, units = state_at_work([writer], Clock())
    for seconds, cause in ((1, "killed"), (600, "hub: cannot be reached")):
        state.event(UnitPaused(units[1].id, seconds, cause))
    assert list(writer.notices) == ["expert 1: attempt failed, decision on a retry in 10 min 00 s: hub: cannot be reached"]
    writer.end()


def test_stages_are_shown_in_the_order_in_which_they_start(store: Store) -> None:
    stages = {kind: {"total": 1, "done": 0, "failed": 0} for kind in ("evaluation", "dataset", "distillation", "expert")}
    write_status(store, RunStatus.model_validate(STATUS | {"stages": stages, "running": [], "notices": []}))
    (status,) = read_statuses(store)
    told = [line.split()[0] for line in describe_status(status).splitlines() if "/1 done" in line]
    assert told == ["dataset", "experts", "distillations", "evaluations"]


def test_all_running_runs_and_otherwise_the_latest_are_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    now, early, late = datetime.now(UTC).isoformat(), "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    for name, run, state, written_at in (
        # A live run does not hide one whose driver died, and runs that ended earlier are not shown.
        ("alive", "00000001", "running", now),
        ("alive", "00000002", "running", early),
        ("alive", "00000003", "done", late),
        # A run whose driver died does not hide later runs.
        ("dead", "00000004", "running", early),
        ("dead", "00000005", "done", late),
        ("ended", "00000006", "done", early),
        ("ended", "00000007", "stopped", late),
        # Two that ended within a second; the earlier one is listed first.
        ("tied", "00000008", "done", "2026-01-02T00:00:00.000001+00:00"),
        ("tied", "00000009", "stopped", "2026-01-02T00:00:00.000002+00:00"),
        # The later moment has the smaller text.
        ("zones", "0000000a", "done", "2026-01-02T00:00:00+01:00"),
        ("zones", "0000000b", "stopped", "2026-01-01T23:30:00+00:00"),
    ):
        fields = {"experiment": name, "run": run, "state": state, "written_at": written_at}
        write_status(store, RunStatus.model_validate(STATUS | fields))
    main_exits(["status", store.url, "--json"])
    document = json.loads(capsys.readouterr().out)
    shown = [(one["experiment"], one["run"][-1], one["outdated"]) for one in document["experiments"]]
    alive, dead = [("alive", "1", False), ("alive", "2", True)], [("dead", "4", True), ("dead", "5", False)]
    assert shown == [*alive, *dead, ("ended", "7", False), ("tied", "9", False), ("zones", "b", False)]
    main_exits(["status", store.url])
    told = [line.partition(",")[0] for line in capsys.readouterr().out.splitlines() if ", written" in line]
    runs = ["alive (run 00000001): running", "alive (run 00000002): running"]
    runs += ["dead (run 00000004): running", "dead (run 00000005): done"]
    assert told == [*runs, *(f"{name}: stopped" for name in ("ended", "tied", "zones"))]


def main_exits(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
