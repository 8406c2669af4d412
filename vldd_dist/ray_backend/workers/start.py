"""The functions and classes that Ray runs in a worker process. This module uses only the standard library and Ray.

Ray pickles them by value, and their arguments are sent as bytes. So they run even where our modules cannot be imported, report
that, and end the process. If they were pickled by reference and the import failed, Ray would put a placeholder in their place,
and every later task of that process would fail.
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

# How long a process that is about to exit waits for its answer to be sent.
SEND_SECONDS = 10

WORKER = "vldd_dist.ray_backend.workers.worker"

# The fields of `pipeline.outcome.Outcome`.
Answer = dict[str, Any]


def run_task(payload: bytes, unit_id: str, events: Any) -> Answer:
    """Ray's task: `run`, after which the process ends if the attempt may have spoilt it.

    Args:
        payload: pickled (order, store).
        events: the executor's queue.
    """
    answer = run(payload, unit_id, events)
    if answer["status"] in ("crashed", "broken", "outage"):
        # Partly imported modules, or a GPU context after an error, would make the next task fail too.
        leave(answer, unit_id, events)
    return answer


def run(payload: bytes, unit_id: str, events: Any, rendezvous: tuple[str, int] | None = None, rank: int = 0) -> Answer:
    """Import the package, unpickle the order and run it (`run_checked`). What fails before is an answer too: the driver might
    not unpickle an exception."""
    node = ray.get_runtime_context().get_node_id()
    try:
        say_started(unit_id, node, events)
        ensure_working_directory()
        ray_worker = import_worker()
        order, store = pickle.loads(payload)
    except Exception as error:
        return broken(error, node)
    return ray_worker.run_checked(order, store, events, node, rendezvous, rank)


def say_started(unit_id: str, node: str, events: Any) -> None:
    """Report that the worker has started. It comes before the imports, which may hang, so that the stall timeout ends them."""
    events.actor.put_nowait.remote((unit_id, {"report": "WorkerStarted", "node": node, "fields": {}}))


def import_worker() -> Any:
    """Import `worker`, and with it everything that any unit needs, because the folder of the modules may be removed later."""
    is_first_import = WORKER not in sys.modules
    if is_first_import:
        # The imports create a million objects that stay. Searching them for garbage, during the imports, later, and when the
        # process exits, would take a third of the time.
        gc.disable()
    try:
        return importlib.import_module(WORKER)
    finally:
        if is_first_import:
            gc.freeze()
            gc.enable()


def ensure_working_directory() -> None:
    """Change to an existing directory if the working directory, Ray's copy of the job's files, was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        # If Ray unpacked the files again, they have the same path as before.
        same_path = os.environ.get("PWD", "")
        os.chdir(same_path if os.path.isdir(same_path) else tempfile.gettempdir())


def broken(error: BaseException, node: str) -> Answer:
    return {
        "status": "broken",
        "cause": f"its worker could not start: {exceptions.describe(error)}",
        "exit_code": 1,
        "node": node,
    }


def leave(answer: Answer, unit_id: str, events: Any, rank: int = 0) -> None:
    """Send the answer through the queue, because Ray returns no result from a process that exits, and end this process."""
    try:
        ray.get(events.actor.put_nowait.remote((unit_id, {"ended": answer, "rank": rank})), timeout=SEND_SECONDS)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


class UnitActor:
    """The process of one unit."""

    def run(self, payload: bytes, unit_id: str, events: Any) -> Answer:
        return run(payload, unit_id, events)


class RankActor:
    """The process of one rank."""

    def node(self) -> str:
        """Ray's id of its node."""
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def open(self, world: int, unit_id: str, events: Any) -> tuple[str, int] | Answer:
        """On rank 0: open the rendezvous of all ranks. Returns its host and port, or the answer of a failed attempt."""
        try:
            say_started(unit_id, self.node(), events)
            ensure_working_directory()
            from vldd_dist.sharding.rendezvous import open_rendezvous

            rendezvous, self.server = open_rendezvous(ray.util.get_node_ip_address(), world)
        except Exception as error:
            return broken(error, self.node())
        return rendezvous.host, rendezvous.port

    def run(self, rendezvous: tuple[str, int] | Answer, rank: int, payload: bytes, unit_id: str, events: Any) -> Answer:
        return rendezvous if isinstance(rendezvous, dict) else run(payload, unit_id, events, rendezvous, rank)
