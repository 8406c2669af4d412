"""What Ray runs in a worker process: standard library and Ray only.

Ray pickles these functions and classes by value, and arguments of ours travel as bytes: so they run where none of our
modules can be imported, say so, and end the process. By reference Ray would keep a placeholder for a function whose import
failed, and every later task of that process would fail by it.
"""

import os
import pickle
import sys
import tempfile
from typing import Any

import ray

from vldd_dist.ray_backend import exceptions

# To tell the queue why the process ends.
TELL_SECONDS = 10

# Fields of an `Outcome`.
Answer = dict[str, Any]


def run_task(payload: bytes, unit_id: str, events: Any) -> Answer:
    """One attempt at a unit, in a process that further tasks will share if nothing breaks.

    Args:
        payload: pickled arguments of `ray_worker.run_order`.
        events: the executor's queue.
    """
    answer = run(payload, events)
    if answer["status"] in ("crashed", "broken"):
        # Half-imported modules, or a GPU's context after an error, would spoil the next task.
        leave(answer, unit_id, events)
    return answer


def run(payload: bytes, events: Any, meeting: tuple[str, int] | None = None, rank: int = 0) -> Answer:
    """One attempt at a unit; never raises what the coordinator would have to unpickle."""
    node = ray.get_runtime_context().get_node_id()
    try:
        stand_somewhere()
        # All that any unit needs: the place they come from may be gone when it is needed.
        from vldd_dist.ray_backend import worker as ray_worker

        order, store = pickle.loads(payload)
    except Exception as error:
        return broken(error, node)
    return ray_worker.answer(order, store, events, node, meeting, rank)


def stand_somewhere() -> None:
    """Have a working directory: Ray's package of the job, which it was, may have been removed, or removed and made again."""
    try:
        os.getcwd()
    except FileNotFoundError:
        again = os.environ.get("PWD", "")
        os.chdir(again if os.path.isdir(again) else tempfile.gettempdir())


def broken(error: BaseException, node: str) -> Answer:
    return {
        "status": "broken",
        "cause": f"its worker could not begin: {exceptions.describe(error)}",
        "exit_code": 1,
        "node": node,
    }


def leave(answer: Answer, unit_id: str, events: Any) -> None:
    """End this process; the answer goes by the queue, for Ray takes none of a process that ends."""
    try:
        ray.get(events.actor.put_nowait.remote((unit_id, {"ended": answer})), timeout=TELL_SECONDS)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


class ExpertActor:
    """One expert's process, alive while that expert trains."""

    def run(self, payload: bytes, events: Any) -> Answer:
        return run(payload, events)


class RankActor:
    """One rank's process."""

    def open(self, world: int) -> tuple[str, int] | Answer:
        """Of rank 0: where the others find it, host and port, or why it cannot be found."""
        try:
            stand_somewhere()
            from vldd_dist.sharding.rendezvous import open_rendezvous

            meeting, self.server = open_rendezvous(ray.util.get_node_ip_address(), world)
        except Exception as error:
            return broken(error, ray.get_runtime_context().get_node_id())
        return meeting.host, meeting.port

    def run(self, meeting: tuple[str, int] | Answer, rank: int, payload: bytes, events: Any) -> Answer:
        return meeting if isinstance(meeting, dict) else run(payload, events, meeting, rank)
