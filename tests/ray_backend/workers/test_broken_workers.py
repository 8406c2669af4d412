"""Faults around a unit, with real Ray processes: a removed working directory, failed imports, a worker or the process of the
queue for reports that is killed."""

import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.cloudpickle
from ray.exceptions import RayError

from tests.ray_backend.one_node import Joined, assert_said, one_node, run
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.base import Resources
from vldd_dist.events import Progress
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.ray_backend.executor import RayExecutor
from vldd_dist.ray_backend.workers import attempts, start
from vldd_dist.ray_backend.workers.messages import encode
from vldd_dist.scheduler.failures.failure_policy import RetryBudget
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_experiment import experiment

pytestmark = pytest.mark.ray

PACKAGE = Path(__file__).parents[3] / "vldd_dist"
NO_RETRY = RetryBudget(lost=0, crashed=0, broken=0, outage=0, killed=0)


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """An executor whose workers run in Ray's unpacked copy of the package, like those of a submitted job."""
    package = tmp_path_factory.mktemp("job")
    shutil.copytree(PACKAGE, package / "vldd_dist", ignore=shutil.ignore_patterns("__pycache__"))
    with one_node(package, runtime_env={"working_dir": str(package)}) as executor:
        # Wait for the queue's process, so that it does not take a process that a test prepares.
        executor.queue.qsize()
        yield executor


def in_the_worker(action: Callable[[], object]) -> Any:
    """Run `action` in the process that gets the next task. It must be a lambda: Ray imports the module of other functions."""
    return ray.get(ray.remote(action).remote())


def test_the_capacity_says_what_other_programs_use(executor: Joined) -> None:
    # A class that no module has at its top level is sent by value: the worker cannot import this module.
    class Holder:
        """An actor of another program, which uses its resources."""

        def pid(self) -> int:
            return os.getpid()

    holder = ray.remote(num_cpus=0.5, num_gpus=1)(Holder).remote()
    assert ray.get(holder.pid.remote()) != os.getpid()
    # Ray's figures of free resources are some seconds old.
    deadline = time.monotonic() + HANG_SECONDS
    while (capacity := executor.capacity()).used_gpus != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (capacity.cpus, capacity.gpus, capacity.used_cpus, capacity.used_gpus) == (1, 1, 0.5, 1)
    ray.kill(holder)
    deadline = time.monotonic() + HANG_SECONDS
    while executor.capacity().used_gpus and time.monotonic() < deadline:
        time.sleep(0.1)
    assert executor.capacity().used_cpus == 0


@pytest.mark.parametrize("made_again", [True, False])
def test_a_unit_needs_no_working_directory(
    made_again: bool, executor: Joined, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray removes its package and unpacks it again when another node of the machine shares the session's directory."""
    folder = in_the_worker(lambda: os.getcwd())
    assert "working_dir_files" in folder
    kept = f"{folder}-kept"
    shutil.copytree(folder, kept)
    # Loaded by the worker without a directory.
    run_task = ray.cloudpickle.dumps(start.run_task)

    def run_without_directory(payload: bytes, unit_id: str, events: Any) -> Any:
        assert "torch" not in sys.modules
        assert os.getcwd() == folder
        # Not renamed: the process would keep the same directory under another name.
        shutil.rmtree(folder)
        if made_again:
            shutil.move(kept, folder)
        return pickle.loads(run_task)(payload, unit_id, events)

    # The process ends after the call, so that the next unit gets one without its imports.
    options = {"max_retries": 0, "max_calls": 1}
    monkeypatch.setattr(
        attempts, "_task", lambda cpus, gpus: ray.remote(num_cpus=cpus, num_gpus=gpus, **options)(run_without_directory)
    )
    unit = Graph(experiment()).unit("dataset").inputs["group_000000"]
    try:
        # Without the directory no other process can start, and Ray would try without end.
        result, notices = run(unit, store, executor, NO_RETRY)
        assert os.path.isdir(folder) == made_again
    finally:
        if not os.path.isdir(folder):
            shutil.move(kept, folder)
    assert (result.failed, notices) == ([], [])
    assert is_done(store, unit.kind, unit.id)


def test_no_other_unit_uses_a_process_that_was_given_a_gpu(executor: Joined, store: Store) -> None:
    """A process computes on the first GPU that it was given, whichever it is given later."""
    unit = Graph(experiment()).unit("dataset").inputs["group_000000"]
    result, _ = run(replace(unit, resources=Resources(gpus=1)), store, executor)
    assert result.failed == []
    assert is_done(store, unit.kind, unit.id)
    # The unit's process had imported torch.
    assert not in_the_worker(lambda: "torch" in sys.modules)


def test_a_process_with_failed_imports_exits_and_another_runs_the_unit(executor: Joined, store: Store) -> None:
    # The state in which Python leaves a module whose import failed.
    broken = in_the_worker(lambda: (sys.modules.update({"vldd_dist.pipeline.context": None}), os.getpid())[1])
    unit = Graph(experiment()).unit("dataset").inputs["group_000000"]
    result, (notice,) = run(unit, store, executor)
    assert is_done(store, unit.kind, unit.id)
    assert result.failed == []
    assert "retried: its worker could not start: ModuleNotFoundError at pipeline/" in notice
    assert "import of vldd_dist.pipeline.context halted" in notice
    assert not psutil.pid_exists(broken)


def test_a_worker_killed_repeatedly_fails_with_a_one_sentence_error(executor: Joined, store: Store) -> None:
    """SIGKILL, as from the kernel's out-of-memory killer."""
    over, killed = threading.Event(), set()

    def kill() -> None:
        while not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "ray::UnitActor" in " ".join(process.cmdline()):
                        process.send_signal(signal.SIGKILL)
                        killed.add(process.pid)
                except psutil.Error:
                    continue

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result, notices = run(WorkUnit("expert", {}, label="expert 0", own_process=True), store, executor)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 4
    assert_said(result, notices, "its process was killed")


def test_units_go_on_reporting_when_the_process_of_the_queue_was_killed(executor: Joined) -> None:
    # Nested, and so sent by value.
    @ray.remote
    def reporting(events: Any, message: Any) -> None:
        """A unit that reports ten times a second to the queue that it was given."""
        while True:
            with suppress(RayError):
                ray.get(events.actor.put_nowait.remote(message))
            time.sleep(0.1)

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


def await_reports(executor: RayExecutor) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not executor.reports():
        assert time.monotonic() < deadline, "no report arrives"
        time.sleep(0.1)
