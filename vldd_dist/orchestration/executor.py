"""Running units on Ray: experts as actors, everything else as tasks, progress through one queue."""

import logging
import os
import time
import traceback
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import (
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    WorkerCrashedError,
)
from ray.util.queue import Empty, Queue

from vldd_dist.errors import InterruptedRun, VlddError
from vldd_dist.orchestration.outcomes import DONE, Outcome
from vldd_dist.orchestration.units import UnitOrder
from vldd_dist.storage.store import Store

REPORT_INTERVAL_SECONDS = 0.5

Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Capacity:
    """What the executor can run at once."""

    cpus: float
    gpus: float


class Executor(Protocol):
    """What the coordinator needs of the machinery below it."""

    def capacity(self) -> Capacity: ...

    def submit(self, order: UnitOrder) -> None: ...

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        """Units (by id) whose attempt ended since the last call; waits for the first at most so long."""
        ...

    def events(self) -> list[Event]:
        """Progress since the last call: (unit id, event)."""
        ...

    def close(self) -> None:
        """End everything still running. What units committed stays."""
        ...


def run_order(order: UnitOrder, store: Store, events: Queue) -> Outcome:
    """One attempt at a unit, in a worker process: never raises what the coordinator would have to unpickle."""
    # Here, in the worker: the driver need not load the machine-learning libraries.
    from vldd_dist.orchestration.workspace import execute

    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_INTERVAL_SECONDS or event.get("done") == event.get("total"):
            last = now
            events.actor.put_nowait.remote((order.id, event))

    try:
        execute(order, store, report)
        return DONE
    except VlddError as error:
        return Outcome("refused", str(error), error.exit_code)
    except Exception as error:
        logging.getLogger(__name__).error("%s\n%s", order.label, traceback.format_exc())
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return Outcome("crashed", f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:400]}", 1)


def run_task(order: UnitOrder, store: Store, events: Queue) -> Outcome:
    return run_order(order, store, events)


class ExpertActor:
    """One expert's process, alive while that expert trains."""

    def run(self, order: UnitOrder, store: Store, events: Queue) -> Outcome:
        return run_order(order, store, events)


class RayExecutor:
    """Joins the cluster that RAY_ADDRESS names, or starts a Ray of its own on this machine."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.owns_cluster = "RAY_ADDRESS" not in os.environ
        if self.owns_cluster:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        self.queue = Queue(actor_options={"num_cpus": 0})
        self.task, self.expert = ray.remote(run_task), ray.remote(ExpertActor)
        self.running: dict[ray.ObjectRef, str] = {}
        # Dropping the handle would end the actor.
        self.actors: dict[ray.ObjectRef, Any] = {}

    def capacity(self) -> Capacity:
        resources = ray.cluster_resources()
        if self.owns_cluster and not resources.get("CPU"):
            raise InterruptedRun(
                "the Ray node of this machine died: what was committed is in the store; start the same command again"
            )
        return Capacity(resources.get("CPU", 0.0), resources.get("GPU", 0.0))

    def submit(self, order: UnitOrder) -> None:
        needs = {"num_cpus": order.cpus, "num_gpus": order.gpus}
        if order.kind == "expert":
            actor = self.expert.options(**needs, max_restarts=0).remote()
            reference = actor.run.remote(order, self.store, self.queue)
            self.actors[reference] = actor
        else:
            reference = self.task.options(**needs, max_retries=0, name=order.label).remote(order, self.store, self.queue)
        self.running[reference] = order.id

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        if not self.running:
            return []
        ray.wait(list(self.running), num_returns=1, timeout=timeout_seconds)
        ready, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        ended = []
        for reference in ready:
            actor = self.actors.pop(reference, None)
            ended.append((self.running.pop(reference), self._outcome(reference)))
            if actor is not None:
                ray.kill(actor)
        return ended

    def _outcome(self, reference: ray.ObjectRef) -> Outcome:
        try:
            return ray.get(reference)
        except OutOfMemoryError as error:
            return Outcome("crashed", f"the worker ran out of memory: {_first_line(error)}", 1)
        except (RayActorError, WorkerCrashedError, RaySystemError, GetTimeoutError) as error:
            return Outcome("lost", _first_line(error), 1)
        except RayError as error:
            return Outcome("crashed", _first_line(error), 1)

    def events(self) -> list[Event]:
        try:
            return self.queue.get_nowait_batch(self.queue.qsize())
        except Empty:
            return []
        except RayActorError:
            # The queue's node is gone: progress is lost, the work is not. A new queue serves the units to come.
            self.queue = Queue(actor_options={"num_cpus": 0})
            return []

    def close(self) -> None:
        for reference in self.running:
            if actor := self.actors.get(reference):
                ray.kill(actor)
            else:
                ray.cancel(reference, force=True)
        ray.shutdown()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
