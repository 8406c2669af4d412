"""Ray on one node, a unit that runs there, and the error of a unit whose process is killed again and again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from vldd_dist.artifacts.units import mark_store
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.ray_backend.executor import RayExecutor
from vldd_dist.ray_backend.joining import start_ray
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.failures.failure_policy import RetryBudget
from vldd_dist.scheduler.limits import RunLimits
from vldd_dist.scheduler.result import RunResult
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import Notices

SOON = RetryBudget(pauses=(0.1,))


class Joined(RayExecutor):
    """Uses the Ray that the test started, and leaves it running."""

    def close(self) -> None:
        for attempt in self.running.values():
            attempt.stop()


@contextmanager
def one_node(folder: Path, **more: Any) -> Iterator[Joined]:
    """Ray on one node with one CPU and one GPU (declared to Ray, not a real one)."""
    start_ray(num_cpus=1, num_gpus=1, **more)
    try:
        yield Joined(Store(str(folder)), owns_cluster=True)
    finally:
        ray.shutdown()


def run(unit: WorkUnit, store: Store, executor: Joined, budget: RetryBudget = SOON) -> tuple[RunResult, list[str]]:
    """Runs the unit; returns the result and the notices to the user, without that of the node's unused GPU."""
    view, executor.store = Notices(), store
    # As a run does before its first unit.
    mark_store(store)
    controller = Controller([unit], store, lambda: executor, RunState([view]), RunLimits(budget))
    result = controller.run()
    return result, [notice for notice in view.notices if "no unit asks for a GPU" not in notice]


def assert_said(result: RunResult, notices: list[str], how: str) -> None:
    ((_, outcome),) = result.failed
    assert [": retried: " in notice for notice in notices] == [True, True, True, False]
    assert outcome.cause.startswith(f"{how}")
    assert outcome.cause.endswith(
        "; killed 4 times on machines that are still alive, most likely because memory ran out: lower experts.batch_size, "
        "or raise experts.resources.cpus so that fewer units share a machine"
    )
