"""A run's progress beyond its terminal: in the store, for whoever asks."""

import io

import pytest
from rich.console import Console

from tests.artifacts.test_schemas import STATUS
from vldd_dist.artifacts.run_status import RunStatus, read_statuses, write_status
from vldd_dist.cli.main import main
from vldd_dist.errors import StoreError
from vldd_dist.monitoring.progress import SILENT_SECONDS, PlainView, ProgressBoard
from vldd_dist.monitoring.status import SeveralViews, StatusWriter, describe_status
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def board_at_work(view: SeveralViews, clock: Clock) -> tuple[ProgressBoard, list[WorkUnit]]:
    board = ProgressBoard(view, clock)
    units = [WorkUnit("expert", {"index": index}, label=f"expert {index}") for index in range(3)]
    board.begin(units, {units[0].id})
    board.started(units[1])
    return board, units


def test_the_store_says_where_a_run_stands(store: Store) -> None:
    clock = Clock()
    writer = StatusWriter(store, "scenes", clock)
    board, units = board_at_work(SeveralViews([writer]), clock)
    clock.now = 20
    board.event(units[1].id, {"done": 5, "total": 10, "loss": 1.5})
    board.retried(units[1], "its machine ended")
    board.started(units[1])
    board.refresh()
    board.event(units[1].id, {"done": 6, "total": 10})
    clock.now = 21
    # Not yet again.
    board.refresh()
    board.finished(units[1])
    board.started(units[2])
    board.failed(units[2], "a wrong key")
    writer.state = "failed"
    writer.end()
    (status,) = read_statuses(store)
    assert (status.state, status.stages["expert"].done, status.stages["expert"].failed) == ("failed", 2, 1)
    assert status.running == []
    assert [("tried again" in notice, "a wrong key" in notice) for notice in status.notices] == [(True, False), (False, True)]


def test_a_run_that_was_interrupted_says_so_and_a_store_that_refuses_does_not_stop_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    writer = StatusWriter(store, "scenes", clock)
    board, _ = board_at_work(SeveralViews([writer]), clock)

    def refuse(key: str, data: bytes) -> None:
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", refuse)
        board.refresh()
        assert writer._writing is not None
        writer._writing.result()
    writer.end()
    (status,) = read_statuses(store)
    assert status.state == "stopped"
    assert status.running[0].label == "expert 1"


def test_a_status_in_words(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    status = RunStatus.model_validate(STATUS)
    text = describe_status(status)
    assert "scenes: running" in text
    assert "1/3 done" in text
    assert "expert 1: 5/10, loss 1.500 (2 s)" in text
    assert "gone" not in text
    assert "its driver is gone" in describe_status(status.model_copy(update={"written_at": "2026-01-01T00:00:00+00:00"}))
    main_exits(["status", store.url])
    assert "no experiment has run here" in capsys.readouterr().out


def test_a_unit_that_reports_nothing_is_shown_as_silent_everywhere(store: Store) -> None:
    clock, output = Clock(), io.StringIO()
    writer = StatusWriter(store, "scenes", clock)
    views = SeveralViews([writer, PlainView(Console(file=output), clock)])
    board, units = board_at_work(views, clock)
    board.event(units[1].id, {"done": 5, "total": 10})
    clock.now = SILENT_SECONDS - 1
    assert "silent" not in describe_status(writer.now(board, "running"))
    clock.now = 7 * 60
    assert "expert 1: 5/10, silent for 7 min (420 s)" in describe_status(writer.now(board, "running"))
    board.refresh()
    assert "expert 1: 5/10, silent for 7 min" in output.getvalue()
    # A word of any kind, though it tells of no progress.
    board.event(units[1].id, {"notice": "a slow store"})
    assert "silent" not in describe_status(writer.now(board, "running"))
    assert board.silent_units(1) == []
    clock.now += 60
    assert [(unit.label, seconds) for unit, seconds in board.silent_units(60)] == [("expert 1", 60)]
    writer.end()


def test_stages_are_told_in_the_order_in_which_they_begin(store: Store) -> None:
    stages = {kind: {"total": 1, "done": 0, "failed": 0} for kind in ("evaluation", "dataset", "distillation", "expert")}
    write_status(store, RunStatus.model_validate(STATUS | {"stages": stages, "running": [], "notices": []}))
    (status,) = read_statuses(store)
    told = [line.split()[0] for line in describe_status(status).splitlines() if "/1 done" in line]
    assert told == ["dataset", "experts", "distillations", "evaluations"]


def main_exits(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
