"""An attempt at a unit on Ray: a task, an actor, or a group of actors in a placement group."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import ray
import ray.cloudpickle
from ray.exceptions import RayError
from ray.util import placement_group, remove_placement_group
from ray.util.queue import Queue
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.ray_backend.workers import exceptions, start
from vldd_dist.ray_backend.workers.errors import outcome_of_error
from vldd_dist.ray_backend.workers.placement import labels_without, placement_options
from vldd_dist.store.store import Store

# When a rank fails because another rank is gone, the remaining ranks get this long to fail as well. Those that are still silent
# then show `worst` which rank caused the failure.
GRACE_SECONDS = 10

# Rank (0 for the only process of a unit) -> the outcome that its process sent through the queue before it exited; None if none.
Sent = Callable[[int], Outcome | None]

# Send these modules by value; `start` says why.
for module in (exceptions, start):
    ray.cloudpickle.register_pickle_by_value(module)


class Attempt(ABC):
    """A running attempt at a unit.

    Attributes:
        order: as it was submitted.
        references: Ray object references of the running calls; when one is ready, the attempt may have ended.
        ends_without_reference: whether it may also end by a timeout of its own, without a reference becoming ready.
    """

    ends_without_reference: ClassVar[bool] = False
    references: list[ray.ObjectRef]

    def __init__(self, order: UnitOrder, sent: Sent) -> None:
        self.order, self._sent = order, sent

    def outcome(self) -> Outcome | None:
        """How the attempt ended; None while it runs."""
        return self._end_of(self.references[0])

    def _end_of(self, reference: ray.ObjectRef, rank: int = 0) -> Outcome | None:
        """How a process ended; None while it runs."""
        outcome = outcome_of(reference)
        # So Ray reports a process that exits by itself.
        if outcome and outcome.status == "killed":
            return self._sent(rank) or outcome
        return outcome

    def ask_to_stop(self) -> bool:
        """Interrupt the attempt, so that it stores a checkpoint and ends. Returns False if the unit stores none."""
        return False

    @abstractmethod
    def stop(self) -> None:
        """Stop the attempt if it is still running, and free its resources."""


@cache
def _task(cpus: float, gpus: float) -> Any:
    """The task, declared once for all units that ask for these resources: Ray keeps every declaration for as long as the job
    runs, in its control service and in each worker."""
    # The resources are given to `ray.remote` and not to `.options`, because Ray ends the process after a call only if the
    # function was declared with GPUs. The process must end: it keeps using the GPU on which it first computed, even if the
    # next task is given another one.
    return ray.remote(max_retries=0, num_cpus=cpus, num_gpus=gpus)(start.run_task)


@cache
def _actor(kind: type) -> Any:
    return ray.remote(max_restarts=0)(kind)


class TaskAttempt(Attempt):
    """A unit as a Ray task. Other units may use its process after it, unless it was given a GPU."""

    def __init__(self, order: UnitOrder, store: Store, events: Queue, sent: Sent) -> None:
        super().__init__(order, sent)
        task = _task(order.worker_cpus, order.worker_gpus).options(name=order.label, **placement_options(order))
        self.references = [task.remote(_payload(order, store), order.id, events)]
        self._ended = False

    def ask_to_stop(self) -> bool:
        if self.order.stores_when_stopped:
            ray.cancel(self.references[0], force=False)
        return self.order.stores_when_stopped

    def outcome(self) -> Outcome | None:
        outcome = super().outcome()
        self._ended = outcome is not None
        return outcome

    def stop(self) -> None:
        # Cancelling a task that has just ended makes Ray abort the driver.
        if not self._ended:
            ray.cancel(self.references[0], force=True)


class ActorAttempt(Attempt):
    """A unit in a process of its own, which ends with it."""

    def __init__(self, order: UnitOrder, store: Store, events: Queue, sent: Sent) -> None:
        super().__init__(order, sent)
        # Keep the handle: Ray ends an actor that has none.
        actor = _actor(start.UnitActor)
        self.actor = actor.options(num_cpus=order.worker_cpus, num_gpus=order.worker_gpus, **placement_options(order)).remote()
        self.references = [self.actor.run.remote(_payload(order, store), order.id, events)]

    def stop(self) -> None:
        ray.kill(self.actor)


class GroupAttempt(Attempt):
    """A unit of several ranks. If one rank fails, all are stopped."""

    ends_without_reference = True

    def __init__(self, order: UnitOrder, store: Store, events: Queue, sent: Sent) -> None:
        super().__init__(order, sent)
        needs = {"CPU": order.worker_cpus} | ({"GPU": order.worker_gpus} if order.worker_gpus else {})
        # Placement groups have no fallback, so a node that is not avoided strictly is not avoided.
        required = labels_without(order.avoid.strictly)
        selectors = [required] * order.workers if required else None
        self.group = placement_group([needs] * order.workers, strategy="PACK", bundle_label_selector=selectors)
        self.actors = [
            _actor(start.RankActor)
            .options(
                num_cpus=order.worker_cpus,
                num_gpus=order.worker_gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank),
            )
            .remote()
            for rank in range(order.workers)
        ]
        # Before the run: an actor makes its calls one after the other.
        self._node_of_rank = [actor.node.remote() for actor in self.actors]
        rendezvous = self.actors[0].open.remote(order.workers, order.id, events)
        payload = _payload(order, store)
        self.references = [
            actor.run.remote(rendezvous, rank, payload, order.id, events) for rank, actor in enumerate(self.actors)
        ]
        self._all = list(self.references)
        self._ended: dict[int, Outcome] = {}
        self._failed_at: float | None = None

    def outcome(self) -> Outcome | None:
        for rank, reference in enumerate(self._all):
            if reference in self.references and (outcome := self._end_of(reference, rank)):
                self.references.remove(reference)
                self._ended[rank] = outcome if outcome.node else replace(outcome, node=self._node(rank))
                if outcome.status not in ("done", "waits") and self._failed_at is None:
                    self._failed_at = time.monotonic()
        if len(self._ended) < len(self._all) and not self._grace_is_over():
            return None
        silent = {rank: self._node(rank) for rank in range(len(self._all)) if rank not in self._ended}
        return worst(self._ended, silent)

    def _node(self, rank: int) -> str | None:
        """The node on which a rank ran; None if it has not started there."""
        try:
            node: str = ray.get(self._node_of_rank[rank], timeout=0)
        except RayError:
            return None
        return node

    def _grace_is_over(self) -> bool:
        if self._failed_at is None:
            return False
        # A rank's own failure and the loss of its machine are final. If ranks failed only because they lost another one, wait
        # for the rest, to learn which rank is gone.
        ended = self._ended.values()
        only_losses = all(outcome.status in ("lost", "done", "waits") and not outcome.died for outcome in ended)
        return time.monotonic() - self._failed_at > (GRACE_SECONDS if only_losses else 0)

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.group)


def worst(ended: dict[int, Outcome], silent: dict[int, str | None]) -> Outcome:
    """The outcome of a group. A rank's own failure takes precedence over failures of ranks that only lost another rank.

    Args:
        ended: rank -> outcome, for the ranks that have ended.
        silent: rank -> its node, for the others.
    """
    world = len(ended) + len(silent)
    for status in ("refused", "crashed", "broken", "outage", "killed"):
        for rank, outcome in sorted(ended.items()):
            if outcome.status == status:
                return outcome if status == "refused" else replace(outcome, cause=f"rank {rank} of {world}: {outcome.cause}")
    lost = {rank: outcome for rank, outcome in sorted(ended.items()) if outcome.status == "lost"}
    if not lost:
        # Done or waiting, which is the same on all ranks.
        return next(iter(ended.values()))
    for rank, outcome in lost.items():
        if outcome.died:
            return replace(outcome, cause=f"rank {rank} of {world}: {outcome.cause}")
    if missing := {rank for outcome in lost.values() for rank in outcome.missing}:
        # They connect to rank 0: if no other rank could, it is the one that cannot be reached.
        unreached = 0 if len(missing) == world - 1 > 1 else min(missing)
        node = silent[unreached] if unreached in silent else ended[unreached].node
        return replace(next(outcome for outcome in lost.values() if outcome.missing), status="broken", node=node)
    speaker, first = next(iter(lost.items()))
    machines = set(silent.values())
    are_one_machine = len(machines) == 1 and machines.isdisjoint(outcome.node for outcome in lost.values())
    if len(silent) > len(lost) and not are_one_machine:
        # If one rank or machine is gone, the others notice: so these wait for the one that failed, or for its network.
        cause = f"rank {speaker} of {world} cannot communicate with the others: {first.cause}"
        return replace(first, status="broken", cause=cause)
    if silent:
        hung = f"rank {', '.join(map(str, sorted(silent)))} of {world}"
        cause = f"{hung} did not answer the others, it hangs or its network failed (rank {speaker}: {first.cause})"
        # The first one's node: if it turns out to be dead, the unit was lost with it.
        return Outcome("broken", cause, 1, node=silent[min(silent)])
    # All ranks answered, so no machine was lost: closed ports, for example, or ranks in different operations.
    return replace(first, status="broken")


def outcome_of(reference: ray.ObjectRef) -> Outcome | None:
    """The outcome that the worker returned or, if it returned none, the outcome for Ray's error; None while it runs."""
    ready, _ = ray.wait([reference], timeout=0)
    if not ready:
        return None
    try:
        return Outcome(**ray.get(reference))
    except Exception as error:
        return outcome_of_error(error)


def _payload(order: UnitOrder, store: Store) -> bytes:
    return ray.cloudpickle.dumps((order, store))
