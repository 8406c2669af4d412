"""Running units on Ray: starts attempts, collects their outcomes, and receives their reports through one queue."""

import time
from collections.abc import Callable

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vldd_dist.errors import InterruptedRun
from vldd_dist.events import UnitReported
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.ray_backend.joining import cluster_address, join_cluster, start_ray
from vldd_dist.ray_backend.workers.attempts import ActorAttempt, Attempt, GroupAttempt, Sent, TaskAttempt
from vldd_dist.ray_backend.workers.messages import RankEnded, decode
from vldd_dist.ray_backend.workers.placement import with_room_elsewhere
from vldd_dist.scheduler.executor import Capacity, NodeSize
from vldd_dist.store.store import Store

# How long a distillation that is stopped may take to end its outer step and store a checkpoint. `ray job stop` waits 60 s for
# the driver (`submitting.runtime_env`); the rest is for its last status.
CHECKPOINT_SECONDS = 40

# Time between two checks whether nodes are left for the units that must not run on all of them.
NODES_SECONDS = 10.0
# For how long Ray's list of nodes is used again: hundreds of units may need it in a row, and it has a thousand dead nodes.
NODES_AGE_SECONDS = 1.0


def make_queue() -> Queue:
    """The queue of the workers' reports. Its process is on the driver's node, so that the loss of another node does not destroy
    it. If the process is killed, for lack of memory for example, Ray starts another one, to which the running units go on
    reporting."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1})


class RayExecutor:
    """An `Executor` on the Ray to which this process is connected. `connected_executor` makes one.

    Args:
        owns_cluster: whether this process has started Ray, so that Ray ends with it.
        notice: shows a line of text to the user.
        hurry: whether `close` should end at once, without waiting for checkpoints.
        make_queue: makes the queue of the workers' reports, and another one if it is lost.
    """

    def __init__(
        self,
        store: Store,
        owns_cluster: bool,
        notice: Callable[[str], None] = lambda text: None,
        hurry: Callable[[], bool] = lambda: False,
        make_queue: Callable[[], Queue] = make_queue,
    ) -> None:
        self.store, self.owns_cluster, self._notice, self._hurry = store, owns_cluster, notice, hurry
        self._make_queue = make_queue
        self.queue = make_queue()
        self.running: dict[str, Attempt] = {}
        # Ids of all units that had an attempt.
        self._submitted: set[str] = set()
        # Reports that were read from the queue and not yet returned by `reports`.
        self._reports: list[UnitReported] = []
        # Unit id and rank -> outcome that a worker process sent through the queue before it exited.
        self._sent_outcomes: dict[tuple[str, int], Outcome] = {}
        self._nodes_checked_at = self._nodes_asked_at = -float("inf")
        self._nodes: dict[str, NodeSize] = {}

    def capacity(self) -> Capacity:
        resources = ray.cluster_resources()
        if self.owns_cluster and not resources.get("CPU"):
            raise InterruptedRun("Ray died on this machine: what was committed is in the store; run the same command to resume")
        free = ray.available_resources()
        (cpus, used_cpus), (gpus, used_gpus) = (
            (resources.get(name, 0.0), resources.get(name, 0.0) - free.get(name, 0.0)) for name in ("CPU", "GPU")
        )
        # Ray does not say whether a cluster that somebody else started has an autoscaler, so assume that it may.
        return Capacity(cpus, gpus, not self.owns_cluster, used_cpus, used_gpus)

    def submit(self, order: UnitOrder) -> None:
        if order.id in self._submitted:
            self._forget_earlier_attempt(order.id)
        self._submitted.add(order.id)
        kind: Callable[[UnitOrder, Store, Queue, Sent], Attempt] = TaskAttempt
        if order.is_group:
            kind = GroupAttempt
        elif order.own_process:
            kind = ActorAttempt
        placed = with_room_elsewhere(order, self.nodes)
        self.running[order.id] = kind(placed, self.store, self.queue, lambda rank: self._sent(order.id, rank))

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        references = [reference for attempt in self.running.values() for reference in attempt.references]
        if not references:
            return []
        ray.wait(references, num_returns=1, timeout=timeout_seconds)
        # One call for all attempts: with hundreds of them, a call for each would take longer than a poll.
        ready = set(ray.wait(references, num_returns=len(references), timeout=0)[0])
        ended = []
        for unit_id, attempt in self.running.items():
            may_have_ended = attempt.ends_without_reference or not ready.isdisjoint(attempt.references)
            if may_have_ended and (outcome := attempt.outcome()):
                ended.append((unit_id, outcome))
        for unit_id, _ in ended:
            self.running.pop(unit_id).stop()
        return ended + self._stop_without_room()

    def _stop_without_room(self) -> list[tuple[str, Outcome]]:
        """Stop the attempts that avoid nodes strictly, and for which the other nodes are no longer large enough. Ray would keep
        them in its queue for ever; the next attempt may run on nodes that this one avoided."""
        if time.monotonic() - self._nodes_checked_at < NODES_SECONDS:
            return []
        self._nodes_checked_at = time.monotonic()
        orders = [attempt.order for attempt in self.running.values()]
        stopped = [order.id for order in orders if with_room_elsewhere(order, self.nodes) != order]
        # Such an attempt does not run: a living node on which it did would have room for it.
        lost = Outcome("lost", "the other machines that were large enough for it have left the cluster", 1)
        return [(unit_id, self.stop(unit_id) or lost) for unit_id in stopped]

    def _sent(self, unit_id: str, rank: int) -> Outcome | None:
        """The outcome that the process of a rank sent through the queue before it exited, if it did."""
        self._read_queue()
        return self._sent_outcomes.pop((unit_id, rank), None)

    def stop(self, unit_id: str) -> Outcome | None:
        attempt = self.running.pop(unit_id)
        outcome = attempt.outcome()
        attempt.stop()
        return outcome

    def reports(self) -> list[UnitReported]:
        self._read_queue()
        reports, self._reports = self._reports, []
        return reports

    def _forget_earlier_attempt(self, unit_id: str) -> None:
        """Drop what an earlier attempt at the unit has sent: it would be taken for reports of the new attempt."""
        self._read_queue()
        self._reports = [report for report in self._reports if report.unit_id != unit_id]
        self._sent_outcomes = {ended: outcome for ended, outcome in self._sent_outcomes.items() if ended[0] != unit_id}

    def _read_queue(self) -> None:
        try:
            messages = self.queue.get_nowait_batch(self.queue.qsize())
        except (Empty, ActorUnavailableError):
            return
        except RayError:
            # The queue's node died, or Ray could not start its process again. The reports in it are lost, but no work is. Units
            # started from now on use a new queue.
            self.queue = self._make_queue()
            return
        for unit_id, message in messages:
            decoded = decode(unit_id, message)
            if isinstance(decoded, RankEnded):
                self._sent_outcomes[unit_id, decoded.rank] = decoded.outcome
            else:
                self._reports.append(decoded)

    def nodes(self) -> dict[str, NodeSize]:
        if time.monotonic() - self._nodes_asked_at >= NODES_AGE_SECONDS:
            living = {entry["NodeID"]: entry["Resources"] for entry in ray.nodes() if entry["Alive"]}
            self._nodes = {node: NodeSize(has.get("CPU", 0.0), has.get("GPU", 0.0)) for node, has in living.items()}
            self._nodes_asked_at = time.monotonic()
        return self._nodes

    def is_alive(self, node: str) -> bool:
        return node in self.nodes()

    def close(self) -> None:
        stopping = [attempt for attempt in self.running.values() if attempt.ask_to_stop()]
        references = [reference for attempt in stopping for reference in attempt.references]
        if references:
            units = f"{len(stopping)} unit{'s' * (len(stopping) != 1)}"
            self._notice(f"waiting up to {CHECKPOINT_SECONDS} s for the checkpoints of {units}; Ctrl-C again: at once")
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        while references and not self._hurry() and time.monotonic() < deadline:
            _, references = ray.wait(references, num_returns=len(references), timeout=1)
        for attempt in self.running.values():
            attempt.outcome()
            attempt.stop()
        ray.shutdown()


def connected_executor(
    store: Store, notice: Callable[[str], None] = lambda text: None, hurry: Callable[[], bool] = lambda: False
) -> RayExecutor:
    """An executor on the cluster that RAY_ADDRESS names; if it names none, Ray is started on this machine. The arguments are
    those of `RayExecutor`.

    Raises:
        ConfigError: the cluster cannot be joined.
        InterruptedRun: Ray does not start on this machine.
    """
    address = cluster_address()
    if address is None:
        start_ray()
    else:
        join_cluster(address)
    return RayExecutor(store, address is None, notice, hurry)
