"""A run on a cluster whose CPUs other programs use."""

import pytest

from vldd_dist.errors import InterruptedRun
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.limits import NO_LIMITS, RunClock
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import Notices, ScriptedExecutor, make


class SharedCluster(ScriptedExecutor):
    """A cluster with two CPUs, of which other programs use `used_cpus` until the time `until`. A unit that has no room does not
    end."""

    def __init__(self, store: Store, used_cpus: float, until: float) -> None:
        super().__init__(store, {}, lambda now: Capacity(2, 0, used_cpus=used_cpus if now < until else 0))
        self.until, self.poll_seconds = until, 60

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        if self.now < self.until:
            self.now += self.poll_seconds
            return []
        return super().wait(timeout_seconds)


def test_other_programs_on_the_cluster_are_waited_for_without_a_timeout(store: Store) -> None:
    executor, view = SharedCluster(store, used_cpus=1.5, until=5 * NO_LIMITS.capacity_timeout_seconds), Notices()
    state = RunState([view], executor.clock)
    Controller([make("a")], store, lambda: executor, state, clock=RunClock(executor.clock, executor.sleep)).run()
    assert executor.ended == ["a"]
    (notice,) = [notice for notice in view.notices if "waiting" in notice]
    in_words = (
        "the machines have 2 CPUs and 0 GPUs in total, of which other programs, or workers that are still starting, use "
        "1.5 CPUs and 0 GPUs: waiting for them"
    )
    assert notice == f"a asks for 1 CPUs and 0 GPUs, {in_words}"


def test_a_worker_that_does_not_start_although_there_is_room_ends_the_run(store: Store) -> None:
    executor = SharedCluster(store, used_cpus=1, until=5 * NO_LIMITS.capacity_timeout_seconds)
    with pytest.raises(InterruptedRun, match="none started it within 60 minutes"):
        Controller([make("a")], store, lambda: executor, RunState([]), clock=RunClock(executor.clock, executor.sleep)).run()
