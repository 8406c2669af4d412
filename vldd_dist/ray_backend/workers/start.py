"""What Ray runs in a worker process: standard library and Ray only.

Ray pickles these functions and classes by value, and our arguments travel as bytes: so they run even where none of our modules
can be imported, report that, and end the process. Pickled by reference, a function whose import failed would be replaced by a
placeholder, and every later task of that process would fail.
"""

import gc
import importlib
import os
import pickle
import sys
import tempfile
from typing import Any

import ray

from vldd_dist.ray_backend.workers import exceptions

# How long a process that is about to end waits until its answer is sent.
SEND_SECONDS = 10

WORKER = "vldd_dist.ray_backend.workers.worker"

# Fields of `pipeline.outcome.Outcome`.
Answer = dict[str, Any]


def run_task(payload: bytes, unit_id: str, events: Any) -> Answer:
    """One attempt at a unit, in a process that later tasks use too, unless this one spoils it.

    Args:
        payload: pickled (order, store).
        events: the executor's queue.
    """
    answer = run(payload, events)
    if answer["status"] in ("crashed", "broken"):
        # Half-imported modules, or a GPU context after an error, would make the next task fail.
        leave(answer, unit_id, events)
    return answer


def run(payload: bytes, events: Any, rendezvous: tuple[str, int] | None = None, rank: int = 0) -> Answer:
    """One attempt at a unit. Never raises: the driver could be unable to unpickle the exception."""
    node = ray.get_runtime_context().get_node_id()
    try:
        ensure_working_directory()
        ray_worker = import_worker()
        order, store = pickle.loads(payload)
    except Exception as error:
        return broken(error, node)
    return ray_worker.answer(order, store, events, node, rendezvous, rank)


def import_worker() -> Any:
    """The module `worker`, with everything that any unit needs: later the folder that the modules come from may be gone."""
    first = WORKER not in sys.modules
    if first:
        # A million objects come that stay. To look through them for garbage while they come, and again later and when the
        # process ends, would take a third of the time.
        gc.disable()
    try:
        return importlib.import_module(WORKER)
    finally:
        if first:
            gc.freeze()
            gc.enable()


def ensure_working_directory() -> None:
    """Change to a directory that exists. Ray's copy of the job's package, where workers run, may have been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        # Removed and unpacked again, it has the same path.
        same_path = os.environ.get("PWD", "")
        os.chdir(same_path if os.path.isdir(same_path) else tempfile.gettempdir())


def broken(error: BaseException, node: str) -> Answer:
    return {
        "status": "broken",
        "cause": f"its worker could not start: {exceptions.describe(error)}",
        "exit_code": 1,
        "node": node,
    }


def leave(answer: Answer, unit_id: str, events: Any) -> None:
    """Send the answer through the queue and end this process: Ray returns no result of a process that ends."""
    try:
        ray.get(events.actor.put_nowait.remote((unit_id, {"ended": answer})), timeout=SEND_SECONDS)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


class ExpertActor:
    """The process of one expert."""

    def run(self, payload: bytes, events: Any) -> Answer:
        return run(payload, events)


class RankActor:
    """The process of one rank."""

    def open(self, world: int) -> tuple[str, int] | Answer:
        """On rank 0: opens the rendezvous of all ranks; returns its host and port, or the answer of a failed attempt."""
        try:
            ensure_working_directory()
            from vldd_dist.sharding.rendezvous import open_rendezvous

            rendezvous, self.server = open_rendezvous(ray.util.get_node_ip_address(), world)
        except Exception as error:
            return broken(error, ray.get_runtime_context().get_node_id())
        return rendezvous.host, rendezvous.port

    def run(self, rendezvous: tuple[str, int] | Answer, rank: int, payload: bytes, events: Any) -> Answer:
        return rendezvous if isinstance(rendezvous, dict) else run(payload, events, rendezvous, rank)
