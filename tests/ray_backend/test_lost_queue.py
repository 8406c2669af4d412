"""The process of the queue for reports is killed while units run, with real Ray processes."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from tests.ray_backend.workers.test_broken_workers import one_node
from vldd_dist.events import Progress
from vldd_dist.ray_backend.executor import RayExecutor
from vldd_dist.ray_backend.workers.messages import encode
from vldd_dist.testing.experiments.tiny import HANG_SECONDS

pytestmark = pytest.mark.ray


@ray.remote
def reporting(events: Any, message: Any) -> None:
    """A unit that reports ten times a second to the queue that it was given."""
    while True:
        with suppress(RayError):
            ray.get(events.actor.put_nowait.remote(message))
        time.sleep(0.1)


def await_reports(executor: RayExecutor) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not executor.reports():
        assert time.monotonic() < deadline, "no report arrives"
        time.sleep(0.1)


def test_units_go_on_reporting_when_the_process_of_the_queue_was_killed(tmp_path: Path) -> None:
    with one_node(tmp_path) as executor:
        unit = reporting.remote(executor.queue, ("a", encode(Progress(1, 9), "n")))
        await_reports(executor)
        pid = ray.get(executor.queue.actor.__ray_call__.remote(lambda self: os.getpid()))
        os.kill(pid, signal.SIGKILL)
        # What was read before the process died does not count.
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)
        executor.reports()
        await_reports(executor)
        ray.cancel(unit, force=True)
