"""Running units on Ray: what runs, what ended, progress through one queue."""

import logging
import os
from collections.abc import Callable

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vldd_dist.errors import ConfigError, InterruptedRun
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.ray_backend.attempts import Attempt, ExpertAttempt, GroupAttempt, TaskAttempt
from vldd_dist.scheduler.executor import Capacity, Event
from vldd_dist.store.store import Store

# For what a distillation stores when it is stopped.
STOP_SECONDS = 10
# Of a Ray of its own.
STARTS = 3


logger = logging.getLogger(__name__)


def _start_ray() -> None:
    """A Ray of its own on this machine. Ray gives its processes 30 s to begin, which a busy machine may exceed: tried again.

    Raises:
        InterruptedRun: it did not begin in `STARTS` tries.
    """
    for left in reversed(range(STARTS)):
        try:
            # "local": without an address Ray joins whatever cluster was last started on this machine.
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray raises no narrower one here.
            ray.shutdown()
            reason = str(error).strip().partition("\n")[0]
            if not left:
                raise InterruptedRun(
                    f"Ray did not start on this machine in {STARTS} tries ({reason}): start the same command again when the "
                    "machine is less busy"
                ) from None
            logger.warning("Ray did not start on this machine (%s): tried again", reason)


class RayExecutor:
    """Joins the cluster that RAY_ADDRESS names, or starts a Ray of its own on this machine."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.owns_cluster = "RAY_ADDRESS" not in os.environ
        try:
            self._join()
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}: the cluster cannot be joined ({reason}): "
                "correct the address, or leave it out for a Ray on this machine"
            ) from None
        self.queue = self._make_queue()
        self.running: dict[str, Attempt] = {}
        # What came by the queue and was not asked for yet, and how attempts ended whose process ended with them.
        self._events: list[Event] = []
        self._last_words: dict[str, Outcome] = {}

    def _join(self) -> None:
        if self.owns_cluster:
            _start_ray()
        else:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)

    def _make_queue(self) -> Queue:
        # Beside the driver: with another node it would go, and with it all progress of what runs.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def capacity(self) -> Capacity:
        resources = ray.cluster_resources()
        if self.owns_cluster and not resources.get("CPU"):
            raise InterruptedRun(
                "the Ray node of this machine died: what was committed is in the store; start the same command again"
            )
        # Whether a cluster of others has an autoscaler cannot be asked; it acts on what waits.
        return Capacity(resources.get("CPU", 0.0), resources.get("GPU", 0.0), may_grow=not self.owns_cluster)

    def submit(self, order: UnitOrder) -> None:
        kind: Callable[[UnitOrder, Store, Queue], Attempt] = TaskAttempt
        if order.workers > 1 or order.execution.get("zero_stage"):
            kind = GroupAttempt
        elif order.kind == "expert":
            kind = ExpertAttempt
        self.running[order.id] = kind(order, self.store, self.queue)

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        references = [reference for attempt in self.running.values() for reference in attempt.references]
        if not references:
            return []
        ray.wait(references, num_returns=1, timeout=timeout_seconds)
        # One question for all: a question for each of hundreds takes longer than a poll.
        told = set(ray.wait(references, num_returns=len(references), timeout=0)[0])
        ended = [
            (unit_id, self._in_its_own_words(unit_id, outcome))
            for unit_id, attempt in self.running.items()
            if (isinstance(attempt, GroupAttempt) or not told.isdisjoint(attempt.references)) and (outcome := attempt.outcome())
        ]
        for unit_id, _ in ended:
            self.running.pop(unit_id).stop()
        return ended

    def _in_its_own_words(self, unit_id: str, outcome: Outcome) -> Outcome:
        """A process that ended because it was spoilt has told the queue why."""
        if outcome.status == "killed":
            self._read_queue()
            return self._last_words.pop(unit_id, outcome)
        return outcome

    def stop(self, unit_id: str) -> Outcome | None:
        attempt = self.running.pop(unit_id)
        outcome = attempt.outcome()
        attempt.stop()
        return outcome and self._in_its_own_words(unit_id, outcome)

    def events(self) -> list[Event]:
        self._read_queue()
        events, self._events = self._events, []
        return events

    def _read_queue(self) -> None:
        try:
            news = self.queue.get_nowait_batch(self.queue.qsize())
        except (Empty, ActorUnavailableError):
            return
        except RayError:
            # Its process or node is gone, for want of memory perhaps: progress is lost, the work is not. A new queue serves the
            # units to come.
            self.queue = self._make_queue()
            return
        for unit_id, event in news:
            if "ended" in event:
                self._last_words[unit_id] = Outcome(**event["ended"])
            else:
                self._events.append((unit_id, event))

    def lives(self, node: str) -> bool:
        return any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())

    def close(self) -> None:
        tasks = [attempt for attempt in self.running.values() if isinstance(attempt, TaskAttempt)]
        asked = [task for task in tasks if task.stores_when_asked]
        for task in asked:
            task.ask_to_stop()
        references = [reference for task in asked for reference in task.references]
        if references:
            ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)
        for attempt in self.running.values():
            attempt.outcome()
            attempt.stop()
        ray.shutdown()
