"""The output of a run on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from vldd_dist.events import Progress, UnitFailed, UnitFinished, UnitReported, UnitStarted
from vldd_dist.monitoring.live.console import LIVE_UNITS, PLAIN_UNITS, LiveView, PlainView, make_view
from vldd_dist.monitoring.live.descriptions import Message, describe_event
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.monitoring.live.time_left import TimeLeft, time_left
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.limits import RunClock, RunLimits
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import (
    ScriptedExecutor,
    make,
)


def test_time_left_is_estimated_from_what_was_seen() -> None:
    now = [0.0]
    state = RunState([], clock=lambda: now[0])
    units = [WorkUnit("expert", {"index": i}, label=str(i)) for i in range(4)]
    state.cpus = 2
    state.begin(units, set())
    assert str(time_left(state)) == "time left not known yet"
    state.event(UnitStarted(units[0].id))
    state.event(UnitStarted(units[1].id))
    state.event(UnitReported(units[0].id, Progress(0, 2)))
    now[0] = 10.0
    assert str(time_left(state)) == "time left not known yet"
    state.event(UnitReported(units[0].id, Progress(1, 2)))
    # 20 s per unit: 10 s left of the first, 10 s of the second, and two more waiting, on two CPUs.
    assert time_left(state) == TimeLeft(pytest.approx((10 + 10 + 20 + 20) / 2), complete=True)
    state.event(UnitFinished(units[0].id, 10))
    assert state.done["expert"] == 1


def show(terminal: bool) -> str:
    output = io.StringIO()
    view = make_view(Console(file=output, force_terminal=terminal, width=100))
    assert isinstance(view, LiveView if terminal else PlainView)
    now = [0.0]
    state = RunState([view], clock=lambda: now[0])
    units = [WorkUnit("expert", {"index": i}, label=f"expert {i}") for i in range(3)]
    state.begin(units, {units[0].id})
    state.event(UnitStarted(units[1].id))
    state.event(UnitReported(units[1].id, Progress(0, 100)))
    now[0] = 25.0
    state.event(UnitReported(units[1].id, Progress(50, 100, samples_per_second=512.3, epoch=2, loss=1.25)))
    state.refresh()
    state.event(UnitFailed(units[1].id, "crashed", "a cause"))
    state.event(UnitStarted(units[2].id))
    now[0] = 30.0
    state.event(UnitFinished(units[2].id, 5))
    state.refresh()
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
    assert str(TimeLeft(0, complete=False)) == "time left not known yet"
    assert str(TimeLeft(59.4, complete=True)) == "about 59 s left"
    assert str(TimeLeft(185, complete=False)) == "more than 3 min 05 s left"
    assert str(TimeLeft(5600, complete=True)) == "about 1 h 33 min left"


def test_durations_of_a_run_are_in_one_form() -> None:
    now, output = [0.0], io.StringIO()
    view = LiveView(Console(file=output, force_terminal=True, width=100))
    state = RunState([view], clock=lambda: now[0])
    unit = WorkUnit("expert", {}, label="expert 1")
    state.begin([unit], set())
    now[0] = 282.0
    state.refresh()
    view.end()
    assert "4 min 42 s so far" in output.getvalue()
    assert describe_event(UnitFinished(unit.id, 705.0), state) == Message("expert 1: done in 11 min 45 s")


def test_the_time_left_depends_on_the_scarcest_resource() -> None:
    """Four units of 2 CPUs and a GPU that take 10 s each, one of which has ended: 30 unit seconds are left."""
    now = [0.0]
    units = [make(f"expert {place}", cpus=2, gpus=1) for place in range(4)]
    state = RunState([], lambda: now[0])
    state.begin(units, set())
    state.event(UnitStarted(units[0].id))
    now[0] = 10
    state.event(UnitFinished(units[0].id, 10))
    for cpus, gpus, max_running, seconds in ((10, 10, None, 6), (10, 2, None, 15), (10, 10, 1, 30), (4, 10, 3, 15)):
        state.cpus, state.gpus, state.max_running = cpus, gpus, max_running
        assert time_left(state) == TimeLeft(seconds, complete=True)


def test_the_run_state_has_the_capacity_and_max_running(store: Store) -> None:
    state = RunState([])
    executor = ScriptedExecutor(store, {}, lambda now: Capacity(6, 1.5))
    Controller(
        [make("a")], store, lambda: executor, state, limits=RunLimits(max_running=7), clock=RunClock(executor.clock)
    ).run()
    assert (state.cpus, state.gpus, state.max_running) == (6, 1.5, 7)


@pytest.mark.parametrize("terminal", [True, False])
def test_of_hundreds_of_running_units_some_are_shown_and_the_others_counted(terminal: bool) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, height=100)
    now = [0.0]
    view = LiveView(console) if terminal else PlainView(console)
    state = RunState([view], lambda: now[0])
    units = [make(f"expert {place}") for place in range(500)]
    state.begin(units, set())
    for unit in units:
        state.event(UnitStarted(unit.id))
        state.event(UnitReported(unit.id, Progress(1, 2)))
    output.truncate(0)
    now[0] = 30
    state.refresh()
    view.end()
    shown = output.getvalue()
    limit = LIVE_UNITS if terminal else PLAIN_UNITS
    assert f"expert {limit - 1}: 1/2" in shown
    assert f"expert {limit}: 1/2" not in shown
    assert f"and {500 - limit} more" in shown


def test_a_live_table_is_drawn_at_most_four_times_a_second() -> None:
    now = [0.0]
    view = LiveView(Console(file=io.StringIO(), force_terminal=True))
    state = RunState([view], lambda: now[0])
    drawn: list[float] = []
    view.live.update = lambda table, refresh: drawn.append(now[0])  # type: ignore[method-assign]
    for tenth in range(11):
        now[0] = tenth / 8
        state.refresh()
    assert drawn == [0, 0.25, 0.5, 0.75, 1, 1.25]
