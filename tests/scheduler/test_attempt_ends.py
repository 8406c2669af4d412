from dataclasses import replace

from tests.scheduler.parts import Parts
from vldd_dist.events import (
    UnitBlocked,
    UnitFailed,
    UnitFinished,
    UnitPaused,
    UnitReported,
    UnitRetried,
    UnitWaits,
    WorkerStarted,
)
from vldd_dist.pipeline.outcome import DONE, Outcome
from vldd_dist.pipeline.work_unit import AvoidedNodes
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.testing.scripted_executor import CRASHED, LOST, make

KILLED = Outcome("killed", "its process was killed", 1)


def test_a_unit_that_is_done_makes_its_users_ready() -> None:
    data = make("data")
    user = make("user", data)
    parts = Parts([data, user], Capacity(1, 0))
    parts.dependencies.add(user.id, {data.id})
    parts.submit(data)
    parts.now = 3
    parts.ends.attempt_ended(data, DONE)
    assert parts.of(UnitFinished) == [UnitFinished(data.id, 3)]
    assert parts.result.ran == [data]
    assert parts.ready.first() is user


def test_a_lost_unit_is_ready_again_at_once_and_fails_when_its_budget_is_spent() -> None:
    data = make("data")
    user, further = make("user", data), make("further", data)
    parts = Parts([data, user, further], Capacity(1, 0))
    parts.dependencies.add(user.id, {data.id})
    parts.dependencies.add(further.id, {user.id})
    parts.submit(data)
    parts.ends.attempt_ended(data, LOST)
    assert parts.of(UnitRetried) == [UnitRetried(data.id, "lost", "node died")]
    parts.submission.submit_ready()
    parts.ends.attempt_ended(data, LOST)
    cause = "node died; its machine was lost 2 times without a new checkpoint in between; run the same command again to go on"
    assert parts.of(UnitFailed) == [UnitFailed(data.id, "lost", cause)]
    assert parts.of(UnitBlocked) == [UnitBlocked(user.id), UnitBlocked(further.id)]
    assert (parts.result.failed, parts.result.blocked) == ([(data, replace(LOST, cause=cause))], [user, further])
    assert not parts.ready


def test_a_killed_unit_is_decided_on_after_a_pause_and_avoids_the_node_it_reported_from() -> None:
    unit = make("unit")
    parts = Parts([unit], Capacity(1, 0))
    parts.submit(unit)
    parts.running.report(UnitReported(unit.id, WorkerStarted(), "n1"))
    parts.ends.attempt_ended(unit, KILLED)
    assert parts.of(UnitPaused) == [UnitPaused(unit.id, 5, "its process was killed")]
    parts.now = 4.9
    parts.ends.decide_paused()
    assert not parts.ready
    parts.now = 5
    parts.ends.decide_paused()
    assert parts.of(UnitRetried) == [UnitRetried(unit.id, "killed", "its process was killed")]
    assert parts.avoidance.of(unit.id) == AvoidedNodes(preferably="n1")


def test_a_unit_that_waits_is_ready_when_its_input_is_committed() -> None:
    late, unit = make("late"), make("unit")
    parts = Parts([late, unit], Capacity(2, 0))
    waits = Outcome("waits", awaits=late.id)
    parts.submit(late, unit)
    parts.ends.attempt_ended(unit, waits)
    assert parts.of(UnitWaits) == [UnitWaits(unit.id, late.id)]
    assert not parts.ready
    parts.ends.attempt_ended(late, DONE)
    assert parts.ready.first() is unit
    # Committed by now: no waiting.
    parts.submission.submit_ready()
    parts.ends.attempt_ended(unit, waits)
    assert parts.ready.first() is unit


def test_a_unit_that_waits_for_a_failed_one_is_blocked() -> None:
    late, unit = make("late"), make("unit")
    parts = Parts([late, unit], Capacity(2, 0))
    parts.submit(late, unit)
    parts.ends.attempt_ended(late, CRASHED)
    parts.ends.attempt_ended(unit, Outcome("waits", awaits=late.id))
    assert parts.of(UnitBlocked) == [UnitBlocked(unit.id)]
