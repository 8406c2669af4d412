"""The state of a run computed from its events, and the text for each event."""

from dataclasses import fields

import pytest

from vldd_dist.artifacts.runs.run_status import UnitFigures, known_figures
from vldd_dist.events import (
    CapacityChanged,
    Notice,
    Progress,
    RunEvent,
    RunNotice,
    UnitBlocked,
    UnitFailed,
    UnitFinished,
    UnitPaused,
    UnitReported,
    UnitRetried,
    UnitStarted,
    UnitWaits,
    WorkerStarted,
)
from vldd_dist.monitoring.live.descriptions import Message, describe_event, describe_figures
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.monitoring.live.time_left import TimeLeft, time_left
from vldd_dist.testing.scripted_executor import make


def test_events_update_the_counts() -> None:
    now = [0.0]
    state = RunState([], lambda: now[0])
    a, b, c, d = (make(label) for label in "abcd")
    state.begin([a, b, c, d], {d.id}, max_running=3)
    for event in (CapacityChanged(4, 1), UnitStarted(a.id), UnitStarted(b.id)):
        state.event(event)
    assert (state.total["expert"], state.done["expert"], state.cpus, state.gpus, state.max_running) == (4, 1, 4, 1, 3)
    now[0] = 10
    state.event(UnitReported(a.id, Progress(1, 4, loss=2.0)))
    now[0] = 13
    assert state.running[a.id].fraction == 0.25
    assert state.running[a.id].figures(now[0]) == {"done": 1, "total": 4, "loss": 2.0, "silent_seconds": 3}
    # Any report ends the silence, although it reports no progress.
    state.event(UnitReported(a.id, Notice("a slow store")))
    assert state.running[a.id].figures(now[0])["silent_seconds"] == 0
    assert state.running[a.id].progress == Progress(1, 4, loss=2.0)
    state.event(UnitFinished(a.id, 13))
    state.event(UnitFailed(b.id, "crashed", "a bug"))
    state.event(UnitBlocked(c.id))
    assert (state.done["expert"], state.failed["expert"], state.seconds["expert"], state.timed["expert"]) == (2, 2, 13, 1)
    assert state.running == {}


def test_the_time_left_does_not_count_progress_of_earlier_attempts() -> None:
    now = [0.0]
    state, resumed, waiting = RunState([], lambda: now[0]), make("a"), make("b")
    state.begin([resumed, waiting], set(), max_running=1)
    state.event(UnitStarted(resumed.id))
    now[0] = 10
    state.event(UnitReported(resumed.id, Progress(1900, 2000)))
    assert str(time_left(state)) == "time left not known yet"
    now[0] = 20
    state.event(UnitReported(resumed.id, Progress(1910, 2000)))
    # One step a second: 90 steps of this unit, and 2000 of the other.
    assert time_left(state) == TimeLeft(pytest.approx(90 + 2000), complete=True)
    now[0] = 110
    state.event(UnitReported(resumed.id, Progress(2000, 2000)))
    state.event(UnitFinished(resumed.id, 110))
    assert time_left(state).seconds == pytest.approx(2000)


def test_a_unit_of_one_attempt_counts_with_its_own_duration() -> None:
    now = [0.0]
    state, unit, silent, waiting = RunState([], lambda: now[0]), make("a"), make("b"), make("c")
    state.begin([unit, silent, waiting], set(), max_running=1)
    for one, reports in ((unit, [(10.0, 1), (20.0, 2)]), (silent, [(20.0, 2)])):
        began = now[0]
        state.event(UnitStarted(one.id))
        for seconds, done in reports:
            now[0] = began + seconds
            state.event(UnitReported(one.id, Progress(done, 2)))
        state.event(UnitFinished(one.id, 20))
    assert time_left(state).seconds == pytest.approx(20)


def test_reports_of_units_that_do_not_run_are_ignored() -> None:
    events: list[RunEvent] = []

    class Recorder(View):
        def event(self, event: RunEvent, state: RunState) -> None:
            events.append(event)

    state, unit = RunState([Recorder()]), make("a")
    state.begin([unit], set())
    state.event(UnitReported(unit.id, Progress(1, 2)))
    for ended in (
        UnitRetried(unit.id, "lost", "its machine ended"),
        UnitPaused(unit.id, 5, "killed"),
        UnitWaits(unit.id, unit.id),
    ):
        state.event(UnitStarted(unit.id))
        state.event(ended)
        assert state.running == {}
    assert events[0] == UnitStarted(unit.id)
    assert len(events) == 6


def test_descriptions_of_events() -> None:
    state, a, b = RunState([]), make("a"), make("b")
    state.begin([a, b], set())
    described: list[tuple[RunEvent, Message | None]] = [
        (UnitStarted(a.id), Message("a: started")),
        (UnitFinished(a.id, 5.4), Message("a: done in 5 s")),
        (UnitPaused(a.id, 5, "killed"), Message("a: attempt failed, decision on a retry in 5 s")),
        (
            UnitPaused(a.id, 600, "hub: cannot be reached"),
            Message("a: attempt failed, decision on a retry in 10 min 00 s: hub: cannot be reached", important=True),
        ),
        (UnitRetried(a.id, "lost", "its machine ended"), Message("a: retried: its machine ended", important=True)),
        (UnitWaits(a.id, b.id), Message("a: waits for b")),
        (UnitFailed(a.id, "crashed", "a bug"), Message("a: FAILED, a bug", important=True)),
        (UnitReported(a.id, Notice("a slow store")), Message("a: a slow store", important=True)),
        (RunNotice("no machines"), Message("no machines", important=True)),
        (UnitReported(a.id, Progress(1, 2)), None),
        (UnitReported(a.id, WorkerStarted()), None),
        (UnitBlocked(a.id), None),
        (CapacityChanged(1, 0), None),
    ]
    for event, message in described:
        assert describe_event(event, state) == message


def test_descriptions_of_figures() -> None:
    figures = {"done": 1, "total": 4, "steps_per_second": 1.234, "validation": 12.34, "difference_error": 2e-4}
    words = "1/4, 1.23 outer steps/s, validation 12.3 %, finite-difference error 2e-04"
    assert describe_figures(figures) == words
    assert describe_figures(known_figures(figures)) == words, "as stored in a status"
    assert {field.name for field in fields(Progress)} | {"silent_seconds"} == set(UnitFigures.model_fields), "none is dropped"
    assert describe_figures({"silent_seconds": 300}) == "silent for 5 min"
    assert describe_figures({}) == ""
