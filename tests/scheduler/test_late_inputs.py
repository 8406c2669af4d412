"""The controller, with units that may start before all their inputs are done, and with stragglers."""

from dataclasses import replace

import pytest

from vldd_dist.events import Progress, UnitReported
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import NO_NODES, AvoidedNodes, UnitOrder, WorkUnit
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity, NodeSize
from vldd_dist.scheduler.failures.failure_policy import RetryBudget
from vldd_dist.scheduler.failures.stragglers import MAX_MOVES, SLOWDOWN, WARM_UP_SECONDS
from vldd_dist.scheduler.limits import RunClock
from vldd_dist.scheduler.result import RunResult
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import DONE, REFUSED, Notices, ScriptedExecutor, make

EXPERTS = [make(f"expert {index}") for index in range(3)]
RUN = replace(make("run", *EXPERTS, kind="distillation"), later=frozenset({"expert 1", "expert 2"}))
JUDGED = make("judged", RUN, kind="evaluation")


def waits(unit: WorkUnit) -> Outcome:
    return Outcome("waits", awaits=unit.id)


class Late(ScriptedExecutor):
    """An executor with a distillation that may be submitted when its first expert is done. It records which nodes the attempts
    at the distillation avoid."""

    avoided: list[AvoidedNodes]

    def submit(self, order: UnitOrder) -> None:
        if order.label == RUN.label:
            self.avoided.append(order.avoid)
        kept = {role: given for role, given in order.inputs.items() if role not in RUN.later}
        super().submit(replace(order, inputs=kept))


def run(store: Store, script: dict[str, list[Outcome]], first: list[str], cpus: float = 2) -> tuple[RunResult, Late, Notices]:
    executor, view = Late(store, script, lambda now: Capacity(cpus, 0), first), Notices()
    executor.avoided = []
    state = RunState([view], executor.clock)
    units = [*EXPERTS, RUN, JUDGED]
    controller = Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep))
    return controller.run(), executor, view


def test_a_run_starts_with_the_inputs_it_needs_and_waits_for_the_others(store: Store) -> None:
    # The distillation proceeds as far as it can while an expert trains, and is submitted again when that expert is done.
    result, executor, view = run(
        store, {"run": [waits(EXPERTS[1]), waits(EXPERTS[2]), DONE]}, ["expert 0", "run", "expert 2", "expert 1"], 3
    )
    assert executor.ended == ["expert 0", "run", "expert 2", "expert 1", "run", "run", "judged"]
    # Waiting does not count as a failure.
    assert (result.exit_code, result.failed, view.notices) == (0, [], [])


def test_no_deadlock_of_late_inputs_on_one_cpu(store: Store) -> None:
    result, executor, _ = run(store, {"run": [waits(EXPERTS[2])]}, ["expert 0"], cpus=1)
    assert executor.ended[-1] == "judged"
    assert len(result.ran) == 5


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_late_input_that_fails_blocks_what_waits_for_it(store: Store, fails: str) -> None:
    order = ["expert 0", "expert 1", "run"] if fails == "before" else ["expert 0", "run", "expert 1"]
    script = {"run": [waits(EXPERTS[1])], "expert 1": [REFUSED]}
    result, executor, _ = run(store, script, order, cpus=3)
    assert [unit.label for unit, _ in result.failed] == ["expert 1"]
    assert sorted(unit.label for unit in result.blocked) == ["judged", "run"]
    assert executor.submitted.count("run") == 1


def test_a_committed_input_that_disappears_fails_the_unit(store: Store) -> None:
    result, executor, _ = run(store, {"run": [waits(EXPERTS[0])] * 9}, ["expert 0"], cpus=3)
    ((unit, outcome),) = result.failed
    assert (unit.label, result.exit_code) == ("run", 4)
    sentence = "expert 0 was committed, but its machine does not see it in the store"
    assert outcome.cause == f"{sentence}; tried 4 times; if it was removed, run the same command again"
    assert executor.submitted.count("run") == 5
    assert executor.now > sum(RetryBudget().pauses)


def test_a_node_may_see_a_committed_input_late(store: Store) -> None:
    """A client of NFS remembers for up to a minute that a file was missing."""
    attempts = [replace(waits(EXPERTS[0]), node="n1")] * 3
    result, executor, view = run(store, {"run": [*attempts, DONE]}, ["expert 0"], cpus=3)
    assert (result.failed, executor.submitted.count("run")) == ([], 4)
    assert view.notices
    assert not [notice for notice in view.notices if "run the same command" in notice], "the run tries it again by itself"
    assert executor.avoided == [NO_NODES, NO_NODES, *[AvoidedNodes(("n1",))] * 2]


def test_a_late_input_that_fails_and_is_never_needed_blocks_nothing(store: Store) -> None:
    result, _, _ = run(store, {"expert 2": [REFUSED]}, ["expert 2"], cpus=3)
    assert [unit.label for unit, _ in result.failed] == ["expert 2"]
    assert result.blocked == []


class Paced(ScriptedExecutor):
    """At each poll every unit reports the speed of its node, and it ends after a number of samples."""

    def __init__(self, store: Store, speeds: dict[str, float], cpus: float) -> None:
        super().__init__(store, {}, lambda now: Capacity(cpus, 0))
        self.speeds = speeds
        self.began: dict[str, float] = {}
        # The time of each stop, and how long the unit had run.
        self.stopped: list[tuple[float, float]] = []
        self.avoided: dict[str, AvoidedNodes] = {}

    def submit(self, order: UnitOrder) -> None:
        super().submit(order)
        self.began[order.id] = self.now
        if self.submitted.count(order.label) > 1:
            self.avoided[order.label] = order.avoid

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        self.now += 1
        ended = [order for order in self.running if self.speeds[order.label] * (self.now - self.began[order.id]) >= 1000]
        for order in ended:
            self.running.remove(order)
            self.store.create(f"units/{order.kind}/{order.id}/manifest.json", b"{}")
        return [(order.id, DONE) for order in ended]

    def reports(self) -> list[UnitReported]:
        return [
            UnitReported(order.id, Progress(1, None, samples_per_second=self.speeds[order.label]), f"node of {order.label}")
            for order in self.running
        ]

    def nodes(self) -> dict[str, NodeSize]:
        """Each unit has a node for itself; the rest of the CPUs is on one more."""
        rest = self.capacity_at(self.now).cpus - len(self.speeds)
        return {**{f"node of {label}": NodeSize(1, 0) for label in self.speeds}, "spare": NodeSize(rest, 0)}

    def stop(self, unit_id: str) -> None:
        super().stop(unit_id)
        self.stopped.append((self.now, self.now - self.began[unit_id]))


def paced(store: Store, speeds: dict[str, float], cpus: float, workers: int = 1) -> tuple[Paced, Notices, RunResult]:
    executor, view = Paced(store, speeds, cpus), Notices()
    state = RunState([view], executor.clock)
    units = [make(label, workers=workers) for label in speeds]
    return executor, view, Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock)).run()


SPEEDS = {"expert 0": 4.0, "expert 1": 4.5, "expert 2": 5.0, "slow": 4.5 / SLOWDOWN - 0.1}


def test_a_straggler_is_moved_at_most_twice_and_only_to_free_machines(store: Store) -> None:
    executor, view, result = paced(store, SPEEDS, cpus=5)
    assert [WARM_UP_SECONDS + 20 <= after <= WARM_UP_SECONDS + 31 for _, after in executor.stopped] == [True] * MAX_MOVES
    assert executor.avoided == {"slow": AvoidedNodes(preferably="node of slow")}
    assert len(result.ran) == 4
    assert ["times as slow as others of its kind" in notice for notice in view.notices] == [True] * MAX_MOVES


@pytest.mark.parametrize(
    ("speeds", "cpus", "workers"),
    [
        (SPEEDS | {"slow": 4.5 / SLOWDOWN + 0.1}, 5, 1),  # Not so slow.
        (SPEEDS, 4, 1),  # No room elsewhere.
        ({label: SPEEDS[label] for label in ("expert 0", "expert 1", "slow")}, 5, 1),  # Too few to compare with.
        (SPEEDS, 10, 2),  # Several ranks, which are placed as a group.
    ],
)
def test_units_that_are_no_stragglers_are_not_moved(store: Store, speeds: dict[str, float], cpus: float, workers: int) -> None:
    executor, _, _ = paced(store, speeds, cpus, workers)
    # When the other units end, their resources are free, and a straggler may be moved.
    others = [1000 / speed for label, speed in speeds.items() if label != "slow"]
    assert [now for now, _ in executor.stopped if now < min(others)] == []
    assert workers == 1 or executor.stopped == []
