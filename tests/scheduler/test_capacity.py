"""The controller and the capacity of the machines: admission, waiting, reservations, and cost per unit in large graphs."""

import time

import pytest

from vldd_dist.errors import ConfigError, InterruptedRun
from vldd_dist.events import Notice, UnitReported
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.outcome import DONE, Outcome
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.limits import NO_LIMITS, RunClock
from vldd_dist.scheduler.result import RunResult
from vldd_dist.scheduler.submitting.admission import MAX_QUEUED
from vldd_dist.scheduler.submitting.ready_queue import MAX_OVERTAKEN
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import LOST, REFUSED, Notices, ScriptedExecutor, graph, make, run


def test_fractions_of_gpus_fill_them_and_no_more(store: Store) -> None:
    units = [make(f"third {place}", gpus=1 / 3) for place in range(7)] + [make("group", gpus=0.1, workers=3)]
    _, executor = run(units, store, capacity=Capacity(100, 2))
    assert executor.most_at_once == 6
    assert executor.submitted[:6] == [f"third {place}" for place in range(6)]
    # Three tenths, which in floating point are more than 0.3: with two thirds of another GPU they leave nothing to fit.
    tenths = [make(f"tenth {place}", gpus=0.1, workers=3) for place in range(3)] + [make("rest", gpus=0.1)]
    _, executor = run(tenths, store, capacity=Capacity(100, 1))
    assert executor.most_at_once == 4


def test_more_than_the_machines_have_is_refused_before_anything_runs(store: Store) -> None:
    big = make("big", kind="dataset", gpus=1)
    message = (
        "big asks for 1 CPUs and 1 GPUs, the machines have 2 CPUs and 0 GPUs: lower its resources or workers, or add machines"
    )
    with pytest.raises(ConfigError, match=message):
        run([big], store)
    small = make("small")
    with pytest.raises(ConfigError, match="large asks for 9 CPUs and 0 GPUs, the machines have 2 CPUs"):
        run([small, make("large", small, cpus=9), big], store)
    found, _ = run([small], store)
    assert found.found == []


def test_machines_that_join_are_used_and_asked_for_once_a_second(store: Store) -> None:
    executor = ScriptedExecutor(store, {}, lambda now: Capacity(1 if now < 3 else 4, 0))
    executor.poll_seconds = 0.25
    state = RunState([])
    units = [make(f"small {place}") for place in range(40)]
    Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock)).run()
    assert executor.most_at_once == 4
    assert executor.asked == [0, *range(10)]


def test_machines_are_asked_for_again_before_they_are_waited_for(store: Store) -> None:
    answers = iter([Capacity(1, 1), Capacity(1, 0)])
    result, _ = run([make("gpu", gpus=1)], store, capacity=lambda now: next(answers, Capacity(1, 1)))
    assert [unit.label for unit in result.ran] == ["gpu"]


def test_lost_gpus_do_not_keep_cpu_units_from_starting(store: Store) -> None:
    """A GPU may disappear before its unit is known to be lost; CPUs must not stay idle meanwhile."""
    units = [make("gpu 0", gpus=1), make("gpu 1", gpus=1), *(make(f"cpu {place}") for place in range(4))]
    _, executor = run(
        units,
        store,
        {"gpu 1": [LOST]},
        capacity=lambda now: Capacity(4, 2 if now < 1 else 1),
        first=["cpu 0", "cpu 1", "cpu 2", "cpu 3", "gpu 1"],
    )
    assert executor.ended == ["cpu 0", "cpu 1", "cpu 2", "cpu 3", "gpu 1", "gpu 0", "gpu 1"]


def test_lost_machines_are_waited_for(store: Store) -> None:
    view = Notices()
    result, executor = run(
        [make("a"), make("b")], store, {"a": [LOST]}, lambda now: Capacity(1 if now < 1 or now > 60 else 0, 0), view=view
    )
    assert executor.submitted == ["a", "a", "b"]
    assert len(result.ran) == 2
    waiting = [notice for notice in view.notices if "waiting" in notice]
    assert waiting == ["a asks for 1 CPUs and 0 GPUs, the machines have 0 CPUs and 0 GPUs now: waiting for machines"]
    assert executor.now < 70


def test_the_waiting_time_starts_again_at_each_loss_of_all_machines(store: Store) -> None:
    short = 0.6 * NO_LIMITS.capacity_timeout_seconds
    _, executor = run([make("a"), make("b"), make("c")], store, capacity=lambda now: Capacity(int(now % short < 1), 0))
    assert executor.submitted == ["a", "b", "c"]
    assert executor.now > NO_LIMITS.capacity_timeout_seconds


def test_a_run_whose_machines_stay_away_ends_and_can_go_on(store: Store) -> None:
    with pytest.raises(InterruptedRun, match="then run the same command again"):
        run([make("a"), make("b")], store, capacity=lambda now: Capacity(1 if now < 1 else 0, 0))
    result, executor = run([make("a"), make("b")], store, capacity=Capacity(1, 0))
    assert [unit.label for unit in result.found] == ["a"]
    assert executor.submitted == ["b"]


class GrowingExecutor(ScriptedExecutor):
    """A cluster with an autoscaler: a minute after units begin to wait, it adds machines of one CPU each, up to `limit`. A unit
    that has no room does not end, and a poll takes a second, even if no unit ends."""

    def __init__(self, store: Store, limit: float) -> None:
        super().__init__(store, {}, lambda now: Capacity(self.cpus, 0, may_grow=True))
        self.cpus, self.limit = 0.0, limit
        self.wanted_at: dict[str, float] = {}
        self.at_work: list[UnitOrder] = []
        self.most_waiting = 0

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        self.now += 1
        for order in self.running:
            self.wanted_at.setdefault(order.id, self.now)
            if order not in self.at_work and sum(other.worker_cpus for other in self.at_work) + order.worker_cpus <= self.cpus:
                self.at_work.append(order)
        wanted = sum(order.worker_cpus for order in self.running if self.now - self.wanted_at[order.id] >= 60)
        self.cpus = max(self.cpus, min(wanted, self.limit))
        self.most_waiting = max(self.most_waiting, len(self.running) - len(self.at_work))
        if not self.at_work:
            return []
        order = self.at_work.pop(0)
        self.running.remove(order)
        self.ended.append(order.label)
        self.store.create(f"units/{order.kind}/{order.id}/manifest.json", b"{}")
        return [(order.id, DONE)]


def run_growing(units: list[WorkUnit], store: Store, limit: float) -> tuple[RunResult, GrowingExecutor, Notices]:
    executor, view = GrowingExecutor(store, limit), Notices()
    state = RunState([view], executor.clock)
    controller = Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep))
    try:
        result = controller.run()
    finally:
        assert executor.closed
    assert state.running == {}
    return result, executor, view


def test_an_empty_cluster_scales_up_for_waiting_units(store: Store) -> None:
    result, executor, view = run_growing([make(f"unit {place}") for place in range(300)], store, limit=16)
    assert len(result.ran) == 300
    assert executor.cpus == 16
    assert executor.most_waiting == MAX_QUEUED
    assert len(view.notices) == 1
    # One minute until the machines start, during which each poll includes a sleep, and then one second per unit.
    assert executor.now < 2 * 60 + 310


def test_a_unit_that_waits_for_room_has_not_started(store: Store) -> None:
    """Otherwise its time in the queue would count as running time in the estimates."""
    result, executor, _ = run_growing([make("first")], store, limit=1)
    assert len(result.ran) == 1
    executor = GrowingExecutor(store, limit=1)
    executor.cpus = 1
    state = RunState([], executor.clock)
    units = [make(f"unit {place}") for place in range(20)]
    Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep)).run()
    assert executor.most_waiting == 19
    assert state.seconds["expert"] == pytest.approx(20)


def test_a_large_unit_in_the_queue_gets_what_comes_free(store: Store) -> None:
    executor = GrowingExecutor(store, limit=4)
    executor.cpus = 4
    state = RunState([], executor.clock)
    units = [*(make(f"small {place}") for place in range(3)), make("large", cpus=4), *(make(f"more {i}") for i in range(200))]
    Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep)).run()
    # Only units that were in the queue together with it may run before it.
    assert 4 <= executor.ended.index("large") <= 4 + MAX_QUEUED


def test_a_unit_that_reports_counts_as_running_despite_the_capacity(store: Store) -> None:
    view = Notices()
    executor = ScriptedExecutor(store, {}, lambda now: Capacity(0, 0, may_grow=True))
    unit = make("a")
    to_tell = [UnitReported(unit.id, Notice("hello"))]
    wait = executor.wait
    executor.wait = lambda seconds: [] if to_tell else wait(seconds)  # type: ignore[method-assign]
    executor.reports = lambda: [to_tell.pop()] if to_tell else []  # type: ignore[method-assign]
    state = RunState([view], executor.clock)
    Controller([unit], store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep)).run()
    assert "a: hello" in view.notices


def test_a_unit_that_ends_counts_as_run_despite_the_capacity(store: Store) -> None:
    result, executor = run([make("a"), make("b")], store, {"a": [LOST], "b": [REFUSED]}, Capacity(0, 0, may_grow=True))
    assert [unit.label for unit in result.ran] == ["a"]
    assert [unit.label for unit, _ in result.failed] == ["b"]
    assert executor.submitted == ["a", "b", "a"]


def test_machines_that_never_come_end_the_run(store: Store) -> None:
    with pytest.raises(
        InterruptedRun, match=r"big asks for 8 CPUs and 0 GPUs, the machines have 4 CPUs and 0 GPUs now, and no others came"
    ):
        run_growing([make("big", cpus=8), *(make(f"small {place}") for place in range(9))], store, limit=4)
    found, _ = run([make(f"small {place}") for place in range(9)], store)
    assert len(found.found) == 9


def test_small_units_do_not_starve_a_big_one(store: Store) -> None:
    """The large unit is first in the plan, but two small ones always leave it no room, until it was overtaken often enough."""
    shared_input = make("shared input", kind="dataset")
    big = make("big", kind="evaluation", cpus=2)
    small = [make(f"small {place}", kind="evaluation") for place in range(100)]
    _, executor = run([shared_input, big, *small], store, first=["shared input"], capacity=Capacity(2, 0))
    assert executor.submitted.index("big") == 1 + MAX_OVERTAKEN


def test_no_more_units_at_once_than_allowed(store: Store) -> None:
    units = graph()
    result, executor = run(units.values(), store, capacity=Capacity(100, 100), max_running=2)
    assert executor.most_at_once == 2
    assert len(result.ran) == len(units)
    _, executor = run(units.values(), Store(f"{store.url}-3"), capacity=Capacity(1, 0, may_grow=True), max_running=2)
    assert executor.most_at_once == 2
    _, executor = run(units.values(), Store(f"{store.url}-2"), capacity=Capacity(100, 100))
    # Two experts and the two runs that need the third one.
    assert executor.most_at_once == 4


def many(experts: int, users: int) -> list[WorkUnit]:
    data = make("data", kind="dataset")
    trained = [make(f"expert {place}", data, gpus=1) for place in range(experts)]
    runs = [make(f"run {place}", *trained, kind="distillation", gpus=1) for place in range(users)]
    judged = [
        make(f"judged {place}.{seed}", run, kind="evaluation", gpus=0.5) for place, run in enumerate(runs) for seed in range(4)
    ]
    return [data, *trained, *runs, *judged]


def seconds_a_unit(store: Store, units: list[WorkUnit]) -> float:
    """CPU seconds of the controller and the executor."""
    # The ids are hashes; compute them before the measurement.
    ids = {unit.id for unit in units}
    began = time.process_time()
    result, executor = run(units, MemoryOfMarks(store.url), capacity=Capacity(400, 256))
    seconds = time.process_time() - began
    assert {unit.id for unit in result.ran} == ids
    assert executor.most_at_once > 300
    return seconds / len(units)


def test_the_cost_per_unit_does_not_grow_from_a_thousand_to_ten_thousand_units(store: Store) -> None:
    """The larger graph has 200,000 edges. If the whole graph were searched whenever a unit ends, a unit would cost eight times
    as much."""
    few, many_units = many(experts=100, users=180), many(experts=100, users=1980)
    assert (len(few), len(many_units)) == (1001, 10_001)
    # The best of up to three measurements of each: a busy machine can only lengthen a measurement.
    thousand = min(seconds_a_unit(store, few) for _ in range(3))
    assert any(seconds_a_unit(store, many_units) < 3 * thousand for _ in range(3))


class MemoryOfMarks(Store):
    """A store that keeps only the keys of created objects, in memory."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.marks: set[str] = set()

    def create(self, key: str, data: bytes) -> bool:
        self.marks.add(key)
        return True

    def exists(self, key: str) -> bool:
        return key in self.marks
