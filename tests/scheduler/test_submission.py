from tests.scheduler.parts import Parts
from vldd_dist.events import CapacityChanged, UnitStarted
from vldd_dist.pipeline.work_unit import AvoidedNodes
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.submitting.admission import MAX_QUEUED
from vldd_dist.scheduler.submitting.submission import CAPACITY_SECONDS
from vldd_dist.testing.scripted_executor import make


def test_what_fits_is_submitted_and_started() -> None:
    units = [make(f"unit {position}") for position in range(3)]
    parts = Parts(units, Capacity(2, 0))
    for unit in units:
        parts.make_ready(unit)
    parts.submission.submit_ready()
    assert parts.submitted == ["unit 0", "unit 1"]
    assert parts.events == [CapacityChanged(2, 0), UnitStarted(units[0].id), UnitStarted(units[1].id)]
    parts.now = 7
    running, seconds = parts.submission.end(units[0])
    assert (running.unit, seconds) == (units[0], 7)
    parts.submission.submit_ready()
    assert parts.submitted[2:] == ["unit 2"]


def test_the_capacity_is_asked_for_once_a_second_while_units_run() -> None:
    unit = make("unit")
    parts = Parts([unit], Capacity(1, 0))
    parts.submit(unit)
    for _ in range(5):
        parts.submission.submit_ready()
    assert parts.executor.asked == 1
    parts.now = CAPACITY_SECONDS
    parts.submission.submit_ready()
    assert parts.executor.asked == 2


def test_capacity_is_requested_again_before_the_run_reports_that_nothing_runs() -> None:
    unit = make("unit", gpus=1)
    parts = Parts([unit], Capacity(1, 0))
    parts.make_ready(unit)
    parts.submission.submit_ready()
    assert parts.submitted == []
    parts.executor.given = Capacity(1, 1)
    parts.submission.submit_ready()
    assert parts.submitted == ["unit"]


def test_with_an_autoscaler_units_beyond_the_capacity_are_submitted_and_start_later() -> None:
    units = [make(f"unit {position}", cpus=2) for position in range(2 * MAX_QUEUED)]
    parts = Parts(units, Capacity(0, 0, may_grow=True))
    parts.submit(*units[:MAX_QUEUED])
    for unit in units[MAX_QUEUED:]:
        parts.make_ready(unit)
    parts.submission.submit_ready()
    assert len(parts.submitted) == MAX_QUEUED
    assert not parts.running
    # Its worker has reported: a machine has come that the capacity does not tell of yet.
    parts.submission.start(units[5].id)
    parts.submission.start(units[5].id)
    assert [running.unit for running in parts.running] == [units[5]]
    parts.executor.given = Capacity(4, 0, may_grow=True)
    parts.now = CAPACITY_SECONDS
    parts.submission.submit_ready()
    assert [running.unit for running in parts.running] == [units[5], units[0]]


def test_the_nodes_to_avoid_travel_with_the_order() -> None:
    unit = make("unit")
    parts = Parts([unit], Capacity(1, 0))
    parts.avoidance.broken_on(unit.id, "n1")
    parts.avoidance.killed_or_slow_on(unit.id, "n2")
    parts.submit(unit)
    assert parts.executor.submitted[0].avoid == AvoidedNodes(("n1",), "n2")
