import pytest

from tests.scheduler.parts import Parts
from vldd_dist.events import Progress, UnitFinished, UnitPaused, UnitReported, UnitRetried, WorkerStarted
from vldd_dist.pipeline.outcome import DONE
from vldd_dist.pipeline.work_unit import AvoidedNodes
from vldd_dist.scheduler.executor import Capacity, NodeSize
from vldd_dist.scheduler.failures.health import HEALTH_SECONDS, HealthChecks
from vldd_dist.scheduler.failures.stragglers import CONSECUTIVE_CHECKS, MIN_PEERS, WARM_UP_SECONDS
from vldd_dist.scheduler.limits import RunLimits
from vldd_dist.testing.scripted_executor import make


def checks(parts: Parts, stall_timeout_seconds: float | None = None) -> HealthChecks:
    limits = RunLimits(stall_timeout_seconds=stall_timeout_seconds)
    return HealthChecks(parts.executor, parts.admission, parts.running, parts.ends, parts.avoidance, limits)


def test_a_stalled_unit_is_stopped_and_counts_as_broken() -> None:
    unit = make("unit")
    parts = Parts([unit], Capacity(1, 0))
    health = checks(parts, 60)
    parts.submit(unit)
    parts.running.report(UnitReported(unit.id, WorkerStarted()))
    parts.now = 59
    assert not health.check()
    # Between two checks nothing is checked.
    parts.now = 59 + HEALTH_SECONDS - 1
    assert not health.check()
    parts.now = 59 + HEALTH_SECONDS
    assert health.check()
    assert parts.executor.stopped == [unit.id]
    assert parts.of(UnitPaused) == [UnitPaused(unit.id, 5, "it has reported nothing for 1 min")]
    parts.now += 5
    parts.ends.decide_paused()
    assert parts.of(UnitRetried) == [UnitRetried(unit.id, "broken", "it has reported nothing for 1 min")]


def test_a_unit_that_ended_before_it_could_be_stopped_is_done() -> None:
    unit = make("unit")
    parts = Parts([unit], Capacity(1, 0))
    health = checks(parts, 60)
    parts.submit(unit)
    parts.running.report(UnitReported(unit.id, WorkerStarted()))
    parts.executor.already_ended[unit.id] = DONE
    parts.now = 60
    health.check()
    assert parts.of(UnitFinished) == [UnitFinished(unit.id, 60)]


@pytest.mark.parametrize("spare", ["none", "on its node", "on the node of another unit", "on a free node"])
def test_a_straggler_is_moved_where_another_node_has_room_for_it(spare: str) -> None:
    units = [make(f"unit {index}") for index in range(MIN_PEERS + 1)]
    parts = Parts(units, Capacity(len(units) + (spare != "none"), 0))
    has_spare = {"on its node": f"node of {units[-1].label}", "on the node of another unit": f"node of {units[0].label}"}
    nodes = [f"node of {unit.label}" for unit in units] + ["free"] * (spare == "on a free node")
    parts.executor.by_node = {node: NodeSize(1 + (node == has_spare.get(spare)), 0) for node in nodes}
    health = checks(parts)
    parts.submit(*units)
    for unit in units:
        speed = 1.0 if unit is units[-1] else 10.0
        parts.running.report(UnitReported(unit.id, Progress(1, None, samples_per_second=speed), f"node of {unit.label}"))
    parts.now = WARM_UP_SECONDS
    for _ in range(CONSECUTIVE_CHECKS):
        assert parts.executor.stopped == []
        assert not health.check()
        parts.now += HEALTH_SECONDS
    if spare in ("none", "on its node"):
        assert parts.executor.stopped == []
        return
    assert parts.executor.stopped == [units[-1].id]
    assert parts.of(UnitRetried) == [UnitRetried(units[-1].id, "slow", "10.0 times as slow as others of its kind")]
    assert parts.avoidance.of(units[-1].id) == AvoidedNodes(preferably=f"node of {units[-1].label}")
    assert parts.ready.first() is units[-1]


def test_one_free_place_elsewhere_moves_one_straggler() -> None:
    """A slow node makes all its units slow. The others would lose their work and start again where they were."""
    units = [make(f"unit {number}") for number in range(11)]
    parts = Parts(units, Capacity(12, 0))
    parts.executor.by_node = {"good": NodeSize(8, 0), "slow": NodeSize(4, 0)}
    health = checks(parts)
    parts.submit(*units)
    for number, unit in enumerate(units):
        node, speed = ("good", 10.0) if number < 7 else ("slow", 1.0)
        parts.running.report(UnitReported(unit.id, Progress(1, None, samples_per_second=speed), node))
    parts.now = WARM_UP_SECONDS
    for _ in range(2 * CONSECUTIVE_CHECKS):
        health.check()
        parts.now += HEALTH_SECONDS
        # The one that was moved waits for its worker from now on.
        parts.submission.submit_ready()
    assert len(parts.executor.stopped) == 1
