"""Attempts that fail on machines that are alive: small budgets, pauses, other machines, messages; and units that go silent."""

from dataclasses import replace

import pytest

from vldd_dist.events import Progress, UnitReported, UnitRetried, WorkerStarted
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.outcome import DONE, Outcome
from vldd_dist.pipeline.stage import all_stages
from vldd_dist.pipeline.work_unit import NO_NODES, AvoidedNodes, UnitOrder, WorkUnit
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.failures.failure_policy import (
    RetryBudget,
    final_outcome,
    may_retry,
    pause_before_retry,
    with_node_losses,
)
from vldd_dist.scheduler.failures.health import HEALTH_SECONDS
from vldd_dist.scheduler.failures.retries import Retries
from vldd_dist.scheduler.limits import RunClock, RunLimits
from vldd_dist.scheduler.node_avoidance import MAX_AVOIDED, NodeAvoidance
from vldd_dist.scheduler.result import RunResult
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import CRASHED, LOST, Notices, ScriptedExecutor, make

KILLED, BROKEN = Outcome("killed", "its process was killed", 1), Outcome("broken", "no module", 1)
UNREACHABLE = Outcome("broken", "s3://bucket: permission denied at x", 4)
OUTAGE = Outcome("outage", "s3://bucket/x: given up after 60 s of retries", 4)
BUDGET = RetryBudget()


class Timed(ScriptedExecutor):
    """Records when each attempt was submitted, and the node that it was to avoid; every attempt reports node `n1`."""

    def __init__(self, store: Store, script: dict[str, list[Outcome]]) -> None:
        super().__init__(store, script, lambda now: Capacity(2, 0))
        self.at: list[float] = []
        self.avoided: list[AvoidedNodes] = []
        self.to_report: list[UnitReported] = []

    def submit(self, order: UnitOrder) -> None:
        super().submit(order)
        self.at.append(self.now)
        self.avoided.append(order.avoid)
        self.to_report.append(UnitReported(order.id, WorkerStarted(), "n1"))

    def reports(self) -> list[UnitReported]:
        reports, self.to_report = self.to_report, []
        return reports


def run_timed(
    store: Store, script: list[Outcome], dead: set[str] | None = None, others: list[WorkUnit] | None = None
) -> tuple[RunResult, Timed, Notices]:
    executor, view = Timed(store, {"a": script}), Notices()
    executor.dead = dead or set()
    state = RunState([view], executor.clock)
    units = [make("a"), *(others or [])]
    result = Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep)).run()
    return result, executor, view


@pytest.mark.parametrize("outcome", [KILLED, BROKEN])
def test_failures_on_a_live_machine_are_retried_elsewhere_with_pauses_and_a_limit(outcome: Outcome, store: Store) -> None:
    result, executor, view = run_timed(store, [outcome] * 9)
    assert executor.submitted == ["a"] * 4
    waits = [later - earlier for earlier, later in zip(executor.at, executor.at[1:], strict=False)]
    assert all(pause <= wait <= pause + 3 for pause, wait in zip(BUDGET.pauses, waits, strict=True)), waits
    # Only a broken machine is avoided also where the others are busy.
    avoided = AvoidedNodes(strictly=("n1",)) if outcome is BROKEN else AvoidedNodes(preferably="n1")
    assert executor.avoided == [NO_NODES, *[avoided] * 3]
    ((unit, failed),) = result.failed
    assert (unit.label, failed.status, result.exit_code) == ("a", outcome.status, 1)
    assert [event.status for event in view.events if isinstance(event, UnitRetried)] == [outcome.status] * 3
    assert [notice.startswith("a: retried: ") for notice in view.notices] == [True, True, True, False]
    if outcome is KILLED:
        assert (
            "killed 4 times on machines that are still alive, most likely because memory ran out: lower experts.batch_size"
            in failed.cause
        )
        assert "raise experts.resources.cpus" in failed.cause
    else:
        assert failed.cause == "no module; tried 4 times: check the machines and the packages installed on them"


def test_each_kind_of_failure_has_a_budget_of_its_own(store: Store) -> None:
    mixed = [LOST, KILLED, BROKEN, CRASHED, KILLED, LOST, BROKEN, KILLED, LOST, BROKEN]
    result, executor, _ = run_timed(store, mixed)
    assert result.failed == []
    assert executor.submitted == ["a"] * 11


def test_workers_that_died_before_their_node_did_are_lost_with_it(store: Store) -> None:
    """Ray reports the death of the worker at once, and that of the node only after some seconds without heartbeats."""
    result, executor, _ = run_timed(store, [KILLED] * 9, dead={"n1"})
    assert result.failed == []
    assert executor.submitted == ["a"] * 10
    # A node that no longer exists is not avoided.
    assert executor.avoided == [NO_NODES] * 10
    for outcome in (KILLED, BROKEN):
        outcomes = [replace(outcome, node="gone"), replace(outcome, node="alive"), outcome]
        found = [one.status for one in with_node_losses(outcomes, "alive".__eq__)]
        assert found == ["lost", outcome.status, outcome.status]


class BadMachines(ScriptedExecutor):
    """Eight machines for one unit each. A unit ends after 70 s, but after `seconds` on the first `bad` machines, which cannot
    reach the store or have not mounted its folder."""

    def __init__(self, store: Store, bad: int, seconds: float) -> None:
        super().__init__(store, {}, lambda now: Capacity(8, 0))
        self.bad, self.seconds = bad, seconds
        # Unit id -> (machine, time of its start).
        self.placed: dict[str, tuple[int, float]] = {}

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        self.now += 1
        ended = []
        for order in list(self.running):
            if order.id not in self.placed:
                used = {machine for machine, _ in self.placed.values()}
                free = [machine for machine in range(8) if machine not in used and f"n{machine}" not in order.avoid.strictly]
                if free:
                    self.placed[order.id] = free[0], self.now
                continue
            machine, began = self.placed[order.id]
            is_bad = machine < self.bad
            if self.now - began >= (self.seconds if is_bad else 70):
                del self.placed[order.id]
                self.running.remove(order)
                if not is_bad:
                    self.store.create(f"units/{order.kind}/{order.id}/manifest.json", b"{}")
                ended.append((order.id, replace(UNREACHABLE, node=f"n{machine}") if is_bad else DONE))
        return ended


@pytest.mark.parametrize(("bad", "seconds"), [(1, 20), (2, 20), (3, 20), (1, 1), (3, 1)])
def test_machines_that_cannot_reach_the_store_fail_no_unit_while_others_can(bad: int, seconds: float, store: Store) -> None:
    executor = BadMachines(store, bad, seconds)
    state = RunState([], executor.clock)
    units = [make(f"unit {number}") for number in range(40)]
    result = Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep)).run()
    assert result.failed == []
    assert len(executor.submitted) > len(units)


def test_every_node_that_broke_a_unit_is_avoided_also_when_it_is_killed_on_another() -> None:
    avoidance, unit = NodeAvoidance(), make("a")
    retries = Retries(BUDGET, lambda: 0.0, lambda node: True, avoidance)
    for outcome, node in ((BROKEN, "n1"), (BROKEN, "n2"), (KILLED, "n3"), (BROKEN, "n1")):
        assert retries.decide(unit, replace(outcome, node=node)).again
    assert avoidance.of(unit.id) == AvoidedNodes(("n2", "n1"), "n3")


def test_a_store_that_no_machine_reaches_ends_with_its_own_sentence_and_exit_code(store: Store) -> None:
    result, executor, _ = run_timed(store, [UNREACHABLE] * 9)
    assert executor.submitted == ["a"] * 4
    ((_, failed),) = result.failed
    assert (failed.cause, result.exit_code) == ("s3://bucket: permission denied at x; tried 4 times", 4)


class Spot(Timed):
    """Every attempt at its unit is lost after it reported that it resumed at the next of these fractions."""

    def __init__(self, store: Store, outcome: Outcome, resumed_at: list[float]) -> None:
        super().__init__(store, {"a": [outcome] * len(resumed_at)})
        self.resumed_at = resumed_at

    def submit(self, order: UnitOrder) -> None:
        super().submit(order)
        if len(self.submitted) <= len(self.resumed_at):
            done = 1000 * self.resumed_at[len(self.submitted) - 1]
            self.to_report += [UnitReported(order.id, Progress(int(done) + step, 1000)) for step in (1, 500)]


def run_spot(store: Store, outcome: Outcome, resumed_at: list[float]) -> tuple[RunResult, Spot]:
    executor = Spot(store, outcome, resumed_at)
    clock = RunClock(executor.clock, executor.sleep)
    return Controller([make("a")], store, lambda: executor, RunState([], executor.clock), clock=clock).run(), executor


@pytest.mark.parametrize("outcome", [LOST, KILLED, BROKEN, OUTAGE, CRASHED], ids=lambda outcome: outcome.status)
def test_failures_after_which_a_unit_resumed_from_a_new_checkpoint_do_not_count(outcome: Outcome, store: Store) -> None:
    result, executor = run_spot(store, outcome, [attempt / 100 for attempt in range(50)])
    assert result.failed == []
    assert len(executor.submitted) == 51


def test_a_unit_that_stores_no_checkpoint_between_losses_fails_with_advice(store: Store) -> None:
    result, executor = run_spot(store, LOST, [0.0] * 5 + [0.1] * 30)
    assert len(executor.submitted) == 5 + 21
    ((_, failed),) = result.failed
    assert "its machine was lost 21 times without a new checkpoint in between; run the same command again" in failed.cause


class Outage(ScriptedExecutor):
    """Eight machines for one unit of half an hour each; every attempt at a unit gets another one. From second 1000 on the store
    does not answer for some time: the units that run then, and those that start, end 60 s after their first request."""

    def __init__(self, store: Store, seconds: float) -> None:
        super().__init__(store, {}, lambda now: Capacity(8, 8))
        self.starts, self.ends = 1000.0, 1000.0 + seconds
        self.began: dict[str, float] = {}
        self.strictly: set[int] = set()

    def submit(self, order: UnitOrder) -> None:
        super().submit(order)
        self.began[order.id] = self.now
        self.strictly.add(len(order.avoid.strictly))

    def reports(self) -> list[UnitReported]:
        return [UnitReported(order.id, WorkerStarted()) for order in self.running]

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        self.now += 5
        ended = []
        for order in list(self.running):
            began = self.began[order.id]
            first_request = max(began + 15, self.starts)
            if first_request + 60 < self.ends and self.now >= first_request + 60:
                ended.append((order.id, replace(OUTAGE, node=f"n{self.submitted.count(order.label) % 8}")))
            elif self.now - began >= 1800:
                self.store.create(f"units/{order.kind}/{order.id}/manifest.json", b"{}")
                ended.append((order.id, DONE))
        gone = {unit_id for unit_id, _ in ended}
        self.running = [order for order in self.running if order.id not in gone]
        return ended


@pytest.mark.parametrize("units", [8, 10, 40])
def test_an_outage_of_the_store_of_twenty_minutes_fails_no_unit(units: int, store: Store) -> None:
    executor = Outage(store, 1200)
    state, clock = RunState([], executor.clock), RunClock(executor.clock, executor.sleep)
    made = [make(f"unit {number}", gpus=1) for number in range(units)]
    result = Controller(made, store, lambda: executor, state, clock=clock).run()
    assert (result.failed, len(result.ran)) == ([], units)
    # Not every node is avoided for what happened on all of them.
    assert max(executor.strictly) == MAX_AVOIDED


def test_a_store_that_never_answers_again_ends_after_an_hour_with_its_own_sentence(store: Store) -> None:
    executor = Outage(store, 1e9)
    state, clock = RunState([], executor.clock), RunClock(executor.clock, executor.sleep)
    result = Controller([make("a", gpus=1)], store, lambda: executor, state, clock=clock).run()
    assert len(executor.submitted) == 11
    assert 50 * 60 < executor.now - executor.starts < 80 * 60
    ((_, failed),) = result.failed
    assert (failed.cause, result.exit_code) == (f"{OUTAGE.cause}; tried 11 times", 4)


def test_other_units_go_on_while_one_waits(store: Store) -> None:
    others = [make(f"b{place}") for place in range(30)]
    result, executor, _ = run_timed(store, [KILLED, KILLED], others=others)
    assert len(result.ran) == 31
    # Other units were started between its first and its second attempt.
    first, second, third = [place for place, label in enumerate(executor.submitted) if label == "a"]
    assert second - first > 1
    assert third - second > 1


def test_pauses_and_final_outcome() -> None:
    assert [pause_before_retry(KILLED, [KILLED] * times, BUDGET) for times in range(4)] == [1, 5, 30, 30]
    assert pause_before_retry(LOST, [LOST] * 5, BUDGET) == pause_before_retry(CRASHED, [], BUDGET) == 0
    assert not may_retry(KILLED, [KILLED] * 3, BUDGET)
    assert may_retry(KILLED, [BROKEN] * 3, BUDGET)
    assert all(stage.lower_for_memory for stage in all_stages())
    assert "lower data.shard_images" in final_outcome(KILLED, [], "shard_group").cause
    assert final_outcome(CRASHED, [], "shard_group") == CRASHED


class Hanging(ScriptedExecutor):
    """For each attempt: after how many seconds it stops reporting and never ends. The other attempts end after 100 s."""

    def __init__(self, store: Store, silent_after: list[float | None]) -> None:
        super().__init__(store, {}, lambda now: Capacity(1, 0))
        self.silent_after, self.began = silent_after, 0.0
        self.avoided: list[AvoidedNodes] = []
        self.stopped: list[float] = []

    def submit(self, order: UnitOrder) -> None:
        super().submit(order)
        self.began = self.now
        self.avoided.append(order.avoid)

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        self.now += 1
        if not self.running or self.silent_after[len(self.submitted) - 1] is not None or self.now < self.began + 100:
            return []
        return [(self.running.pop().id, DONE)]

    def reports(self) -> list[UnitReported]:
        if not self.running:
            return []
        after = self.silent_after[len(self.submitted) - 1]
        at_work = after is None or self.now < self.began + after
        return [UnitReported(self.running[0].id, Progress(1, 2), f"n{len(self.submitted)}")] if at_work else []

    def stop(self, unit_id: str) -> None:
        super().stop(unit_id)
        self.stopped.append(self.now - self.began)


def hang(store: Store, silent_after: list[float | None], limit: float | None, until: float = 1e9) -> tuple[Hanging, RunResult]:
    executor, view = Hanging(store, silent_after), Notices()
    state = RunState([view], executor.clock)
    controller = Controller(
        [make("a")],
        store,
        lambda: executor,
        state,
        should_stop=lambda: executor.now > until,
        limits=RunLimits(stall_timeout_seconds=limit),
        clock=RunClock(executor.clock, executor.sleep),
    )
    return executor, controller.run()


def test_a_unit_that_goes_silent_is_stopped_and_retried_on_another_machine(store: Store) -> None:
    executor, result = hang(store, [30.0, None], limit=300)
    assert [330 <= after <= 330 + HEALTH_SECONDS + 2 for after in executor.stopped] == [True]
    assert executor.avoided == [NO_NODES, AvoidedNodes(strictly=("n1",))]
    assert [unit.label for unit in result.ran] == ["a"]


def test_a_unit_that_goes_silent_on_every_machine_fails_with_a_one_sentence_error(store: Store) -> None:
    executor, result = hang(store, [5.0] * 9, limit=60)
    assert len(executor.stopped) == 4
    ((_, outcome),) = result.failed
    assert "it has reported nothing for 1 min; tried 4 times" in outcome.cause


def test_without_a_time_limit_no_unit_is_stopped(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        hang(store, [5.0], limit=None, until=20_000)
