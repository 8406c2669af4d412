"""The records of running units, and the detection of stalls and stragglers, with a clock that the test sets."""

from dataclasses import replace
from typing import Any

import pytest

from vldd_dist.config.base import Resources
from vldd_dist.events import Notice, Progress, UnitReported, WorkerStarted
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.failures.health import stalled
from vldd_dist.scheduler.failures.stragglers import (
    CONSECUTIVE_CHECKS,
    MAX_MOVES,
    MIN_PEERS,
    SLOWDOWN,
    WARM_UP_SECONDS,
    Stragglers,
)
from vldd_dist.scheduler.running import RunningUnits
from vldd_dist.testing.scripted_executor import make


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_reports_say_where_a_unit_runs_and_how_fast() -> None:
    clock = Clock()
    running, unit = RunningUnits(clock), make("unit")
    running.start(unit)
    assert not running.any_worker_started
    clock.now = 5
    running.report(UnitReported(unit.id, WorkerStarted(), "n1"))
    running.report(UnitReported(unit.id, Progress(1, 2, steps_per_second=3.0)))
    running.report(UnitReported(unit.id, Notice("a slow store")))
    assert running.any_worker_started
    known, seconds = running.end(unit.id)
    assert (known.node, known.speed, known.heard_at, seconds) == ("n1", 3.0, 5, 5)
    assert not running
    assert not running.any_worker_started


def test_a_unit_stalls_when_it_reports_nothing() -> None:
    clock = Clock()
    running, units = RunningUnits(clock), [make("silent"), make("alive")]
    for unit in [*units, queued := make("waits for a machine")]:
        running.start(unit)
        if unit is not queued:
            running.report(UnitReported(unit.id, WorkerStarted(), "n1"))
    clock.now = 119
    running.report(UnitReported(units[1].id, Notice("still here")))
    assert stalled(running, 120) == []
    clock.now = 180
    assert stalled(running, 120) == [(units[0], "it has reported nothing for 3 min")]
    assert stalled(running, None) == []


def fleet(clock: Clock, speeds: list[float], kind: str = "expert") -> tuple[RunningUnits, list[WorkUnit]]:
    """Units that have reported these speeds after the warm-up."""
    running, units = RunningUnits(clock), [make(f"unit {index}", kind=kind) for index in range(len(speeds))]
    for unit, speed in zip(units, speeds, strict=True):
        running.start(unit)
        running.report(UnitReported(unit.id, Progress(1, None, samples_per_second=speed)))
    clock.now += WARM_UP_SECONDS
    return running, units


def test_a_unit_is_a_straggler_after_some_checks_in_a_row_and_is_moved_a_few_times() -> None:
    clock = Clock()
    running, units = fleet(clock, [10.0] * MIN_PEERS + [10 / SLOWDOWN - 0.1])
    stragglers = Stragglers(running)
    assert [stragglers.slow() for _ in range(CONSECUTIVE_CHECKS - 1)] == [[]] * (CONSECUTIVE_CHECKS - 1)
    for _ in range(MAX_MOVES):
        while not (found := stragglers.slow()):
            """Counted anew after a move."""
        assert found == [(units[-1], "3.1 times as slow as others of its kind")]
        stragglers.moved(units[-1])
    assert [stragglers.slow() for _ in range(2 * CONSECUTIVE_CHECKS)] == [[]] * (2 * CONSECUTIVE_CHECKS)


def test_with_too_few_peers_or_no_great_difference_none_is_a_straggler() -> None:
    for speeds in ([10.0] * (MIN_PEERS - 1) + [0.1], [10.0] * MIN_PEERS + [10 / SLOWDOWN + 0.1]):
        running, _ = fleet(Clock(), speeds)
        stragglers = Stragglers(running)
        assert [stragglers.slow() for _ in range(5)] == [[]] * 5


@pytest.mark.parametrize(
    ("other", "is_compared"),
    [
        ({"spec": {"index": "slow", "seed": 2}}, True),
        ({"kind": "dataset"}, False),
        ({"spec": {"index": "slow", "pairs": 500}}, False),
        ({"spec": {"index": "slow", "settings": {"objective": {"name": "trajectory_matching"}}}}, False),
        ({"inputs": {"dataset": make("another", kind="dataset")}}, False),
        ({"resources": Resources(cpus=2)}, False),
        ({"sharding": "zero3"}, False),
        ({"device": "cpu"}, False),
        ({"execution": {"readers": 1}}, False),
    ],
    ids=str,
)
def test_units_are_compared_with_those_that_do_the_same_work_alone(other: dict[str, Any], is_compared: bool) -> None:
    clock = Clock()
    running, units = fleet(clock, [10.0] * MIN_PEERS)
    slow = replace(units[0], label="slow", **other)
    running.start(slow)
    running.report(UnitReported(slow.id, Progress(1, None, samples_per_second=0.1)))
    clock.now += WARM_UP_SECONDS
    stragglers = Stragglers(running)
    found = [stragglers.slow() for _ in range(CONSECUTIVE_CHECKS)]
    assert [unit.label for unit, _ in found[-1]] == ["slow"] * is_compared


def test_a_slow_check_in_between_does_not_count() -> None:
    clock = Clock()
    running, units = fleet(clock, [10.0] * MIN_PEERS + [1.0])
    stragglers = Stragglers(running)
    for check in range(4 * CONSECUTIVE_CHECKS):
        speed = 10.0 if check % CONSECUTIVE_CHECKS == 0 else 1.0
        running.report(UnitReported(units[-1].id, Progress(1, None, samples_per_second=speed)))
        assert stragglers.slow() == []
