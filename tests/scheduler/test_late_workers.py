"""Units whose worker does not start although the machines together have room: no single machine has, for example."""

import pytest

from vldd_dist.errors import InterruptedRun
from vldd_dist.events import UnitReported, WorkerStarted
from vldd_dist.monitoring.live.descriptions import describe_running
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.limits import NO_LIMITS, RunClock
from vldd_dist.scheduler.submitting.capacity_notices import WORKER_START_SECONDS
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import Notices, ScriptedExecutor, make


class Silent(ScriptedExecutor):
    """An executor whose units never end. A worker starts after `begins` seconds; None: never."""

    def __init__(self, store: Store, begins: float | None) -> None:
        super().__init__(store, {}, lambda now: Capacity(4, 0))
        self.begins = begins

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        self.now += 1
        return []

    def reports(self) -> list[UnitReported]:
        begun = self.begins is not None and self.now >= self.begins
        return [UnitReported(order.id, WorkerStarted()) for order in self.running] if begun else []


def silent(store: Store, begins: float | None, until: float) -> list[str]:
    """The notices about a unit that asks for 3 CPUs on machines with 4 CPUs in total."""
    executor, view = Silent(store, begins), Notices()
    state = RunState([view], executor.clock)
    controller = Controller(
        [make("wide", cpus=3)],
        store,
        lambda: executor,
        state,
        clock=RunClock(executor.clock, executor.sleep),
        should_stop=lambda: executor.now > until,
    )
    try:
        controller.run()
    except KeyboardInterrupt:
        return view.notices
    raise AssertionError("it never ends by itself")


def test_a_unit_that_fits_no_single_machine_is_reported_and_ends_the_run(store: Store) -> None:
    room = "the machines have 4 CPUs and 0 GPUs in total: waiting for one machine with that much free"
    notice = f"wide asks for 3 CPUs and 0 GPUs, {room}"
    assert silent(store, None, until=WORKER_START_SECONDS - 2) == []
    assert silent(store, None, until=WORKER_START_SECONDS + 2) == [notice]
    with pytest.raises(InterruptedRun, match="in total, and none started it within 60 minutes"):
        silent(store, None, until=2 * NO_LIMITS.capacity_timeout_seconds)


def test_a_started_unit_may_be_silent_without_a_time_limit(store: Store) -> None:
    assert silent(store, begins=WORKER_START_SECONDS / 2, until=2 * NO_LIMITS.capacity_timeout_seconds) == []


class OneGpuMachines(Silent):
    """Eight machines with one GPU each. A unit that asks for more than one never starts; the others take a day."""

    def __init__(self, store: Store, used: float) -> None:
        super().__init__(store, 0)
        self.capacity_at = lambda now: Capacity(64, 8, used_gpus=used)

    def reports(self) -> list[UnitReported]:
        return [UnitReported(order.id, WorkerStarted()) for order in self.running if order.worker_gpus == 1]


@pytest.mark.parametrize("used", [6, 7])
def test_a_unit_that_fits_no_single_machine_is_reported_once_while_others_run(used: int, store: Store) -> None:
    """Unless other programs use what it lacks."""
    executor, view = OneGpuMachines(store, used), Notices()
    state = RunState([view], executor.clock)
    wide = make("wide", kind="distillation", gpus=2)
    controller = Controller(
        [wide, *(make(f"expert {number}", gpus=1) for number in range(6))],
        store,
        lambda: executor,
        state,
        clock=RunClock(executor.clock, executor.sleep),
        should_stop=lambda: executor.now > 3 * WORKER_START_SECONDS,
    )
    with pytest.raises(KeyboardInterrupt):
        controller.run()
    room = "the machines have 64 CPUs and 8 GPUs in total: waiting for one machine with that much free"
    assert view.notices == [f"wide asks for 1 CPUs and 2 GPUs, {room}"] * (used == 6)
    assert describe_running(state.running[wide.id].figures(executor.now)) == "waits for a machine"
