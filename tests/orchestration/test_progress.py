"""What a person sees of a run."""

import io

import pytest
from rich.console import Console

from vldd_dist.orchestration.progress import LiveView, PlainView, ProgressBoard, TimeLeft, make_view
from vldd_dist.orchestration.units import WorkUnit


def test_time_left_is_estimated_from_what_was_seen() -> None:
    now = [0.0]
    board = ProgressBoard(PlainView(Console(quiet=True)), clock=lambda: now[0])
    units = [WorkUnit("expert", {"index": i}, label=str(i)) for i in range(4)]
    board.capacity = 2
    board.begin(units, done=set())
    assert str(board.time_left()) == "time left not known yet"
    board.started(units[0])
    board.started(units[1])
    now[0] = 10.0
    board.event(units[0].id, {"done": 1, "total": 2})
    # 20 s a unit: ten left of the first, ten of the second, two more waiting, on two CPUs.
    assert board.time_left() == TimeLeft(pytest.approx((10 + 10 + 20 + 20) / 2), seen_all=True)
    board.finished(units[0])
    assert board.done["expert"] == 1


def show(terminal: bool) -> str:
    output = io.StringIO()
    view = make_view(Console(file=output, force_terminal=terminal, width=100))
    assert isinstance(view, LiveView if terminal else PlainView)
    now = [0.0]
    board = ProgressBoard(view, clock=lambda: now[0])
    if isinstance(view, PlainView):
        view.clock = board.clock
        view.last = 0.0
    units = [WorkUnit("expert", {"index": i}, label=f"expert {i}") for i in range(3)]
    board.begin(units, done={units[0].id})
    board.started(units[1])
    now[0] = 25.0
    board.event(units[1].id, {"done": 50, "total": 100, "samples_per_second": 512.3, "epoch": 2, "loss": 1.25})
    board.refresh()
    board.failed(units[1], "a cause")
    board.started(units[2])
    now[0] = 30.0
    board.finished(units[2])
    board.refresh()
    view.end()
    return output.getvalue()


def test_lines_for_a_log_have_no_control_characters() -> None:
    shown = show(terminal=False)
    assert "3 units, 1 done before, 2 to run" in shown
    assert "expert 1: 50/100, epoch 2, 512 samples/s, loss 1.250" in shown
    assert "about 1 min 15 s left" in shown
    assert "expert 1: FAILED, a cause" in shown
    assert "expert 2: done in 5 s" in shown
    assert not any(ord(character) < 32 and character != "\n" for character in shown)


def test_a_terminal_gets_one_live_table() -> None:
    shown = show(terminal=True)
    assert "1/3" in shown
    assert "2/3" in shown
    assert "(1 failed)" in shown
    assert "expert 1: 50/100" in shown
    assert "a cause" in shown


def test_time_left_in_words() -> None:
    assert str(TimeLeft(0, seen_all=False)) == "time left not known yet"
    assert str(TimeLeft(59.4, seen_all=True)) == "about 59 s left"
    assert str(TimeLeft(185, seen_all=False)) == "more than 3 min 05 s left"
