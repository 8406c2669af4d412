"""An outage of the store on machines that are unequal, or that other programs use."""

from dataclasses import replace

import pytest

from vldd_dist.events import UnitReported, WorkerStarted
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.outcome import DONE, Outcome
from vldd_dist.pipeline.work_unit import AvoidedNodes
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.limits import NO_LIMITS, RunClock, RunLimits
from vldd_dist.scheduler.node_avoidance import NodeAvoidance
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import Notices, ScriptedExecutor, make

OUTAGE = Outcome("outage", "s3://bucket/x: given up after 60 s of retries", 4)
HOURS = 3
STARTS, ENDS = 600, 640


class Machines(ScriptedExecutor):
    """Machines by name with slots for units of three hours. The units that run from second 600 to second 640 end, because the
    store does not answer.

    Args:
        foreign: machines that other programs use.
    """

    def __init__(self, store: Store, slots: dict[str, int], foreign: tuple[str, ...]) -> None:
        used = sum(slots[machine] for machine in foreign)
        super().__init__(store, {}, lambda now: Capacity(sum(slots.values()), 0, used_cpus=used + len(self.placed)))
        self.slots, self.foreign = slots, foreign
        # Unit id -> (machine, time of its start).
        self.placed: dict[str, tuple[str, float]] = {}

    def free(self, machine: str) -> bool:
        used = sum(place == machine for place, _ in self.placed.values())
        return machine not in self.foreign and used < self.slots[machine]

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        self.now += 20
        ended = []
        for order in list(self.running):
            if order.id not in self.placed:
                free = [machine for machine in self.slots if self.free(machine) and machine not in order.avoid.strictly]
                free.sort(key=lambda machine: machine == order.avoid.preferably)
                if free:
                    self.placed[order.id] = free[0], self.now
                continue
            machine, began = self.placed[order.id]
            success = self.ends(machine, self.now - began)
            if success is not None:
                del self.placed[order.id]
                self.running.remove(order)
                if success:
                    self.store.create(f"units/{order.kind}/{order.id}/manifest.json", b"{}")
                ended.append((order.id, DONE if success else replace(OUTAGE, node=machine)))
        return ended

    def ends(self, machine: str, seconds: float) -> bool | None:
        """Whether an attempt ends now with success, after it has run for some seconds on a machine; None: it goes on."""
        if STARTS <= self.now < ENDS:
            return False
        return True if seconds >= 3600 * HOURS else None

    def reports(self) -> list[UnitReported]:
        return [UnitReported(unit_id, WorkerStarted(), machine) for unit_id, (machine, _) in self.placed.items()]


@pytest.mark.parametrize(
    ("slots", "units", "foreign"), [({"big": 8, "small": 1}, 9, ()), ({"a": 8, "b": 8}, 16, ()), ({"a": 1, "b": 1}, 1, ("b",))]
)
def test_after_an_outage_units_run_again_where_they_ran(
    slots: dict[str, int], units: int, foreign: tuple[str, ...], store: Store
) -> None:
    """They wait for other machines, but not for long."""
    executor, view = Machines(store, slots, foreign), Notices()
    state, clock = RunState([view], executor.clock), RunClock(executor.clock, executor.sleep)
    made = [make(f"unit {number}") for number in range(units)]
    result = Controller(made, store, lambda: executor, state, clock=clock).run()
    assert (result.failed, len(result.ran)) == ([], units)
    assert executor.now < 3600 * (HOURS + 0.5)
    waiting = [notice for notice in view.notices if "waiting for" in notice]
    assert all(notice.endswith("one machine with that much free on which it has not failed") for notice in waiting), waiting


@pytest.mark.parametrize("seconds", [300, 0])
def test_a_run_that_waits_a_few_minutes_for_machines_uses_its_own_before_it_ends(seconds: float, store: Store) -> None:
    executor = Machines(store, {"a": 1, "b": 1}, ("b",))
    clock, limits = RunClock(executor.clock, executor.sleep), RunLimits(capacity_timeout_seconds=seconds)
    result = Controller([make("unit")], store, lambda: executor, RunState([]), limits, clock=clock).run()
    assert (result.failed, len(result.ran)) == ([], 1)


def test_a_node_that_broke_a_unit_is_avoided_also_after_an_outage() -> None:
    avoidance = NodeAvoidance()
    avoidance.broken_on("a", "n1")
    assert not avoidance.relax("a")
    for node in ("n1", "n2", "n3"):
        avoidance.outage_on("a", node)
    assert avoidance.of("a") == AvoidedNodes(("n1", "n2", "n3"))
    assert avoidance.relax("a")
    assert avoidance.of("a") == AvoidedNodes(("n1",), "n3")
    assert not avoidance.relax("a")


def test_a_slow_node_is_avoided_also_after_an_outage() -> None:
    avoidance = NodeAvoidance()
    avoidance.killed_or_slow_on("a", "slow")
    avoidance.outage_on("a", "n1")
    assert avoidance.relax("a")
    assert avoidance.of("a") == AvoidedNodes(preferably="slow")


class OneWithoutStore(Machines):
    """Four machines for one unit each, which takes six hours. The first one never reaches the store: an attempt there ends
    after a minute."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, dict.fromkeys(["m0", "m1", "m2", "m3"], 1), ())

    def ends(self, machine: str, seconds: float) -> bool | None:
        if machine == "m0":
            return False if seconds >= 60 else None
        return True if seconds >= 6 * 3600 else None


@pytest.mark.parametrize("seconds", [NO_LIMITS.capacity_timeout_seconds, 0])
def test_a_machine_that_alone_cannot_reach_the_store_fails_no_unit(seconds: float, store: Store) -> None:
    """It is always free while the others work, so it would get each unit until its attempts are used up.

    Args:
        seconds: how long the run waits for machines while none of its units runs.
    """
    executor = OneWithoutStore(store)
    state, clock = RunState([Notices()], executor.clock), RunClock(executor.clock, executor.sleep)
    made = [make(f"unit {number}") for number in range(12)]
    limits = RunLimits(capacity_timeout_seconds=seconds)
    result = Controller(made, store, lambda: executor, state, limits, clock=clock).run()
    assert (result.failed, len(result.ran)) == ([], 12)
