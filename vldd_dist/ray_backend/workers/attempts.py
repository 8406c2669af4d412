"""An attempt at a unit on Ray: a task, an actor, or a group of actors in a placement group."""

import time
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

import ray
import ray.cloudpickle
from ray.util import placement_group, remove_placement_group
from ray.util.queue import Queue
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.ray_backend.workers import exceptions, start
from vldd_dist.ray_backend.workers.errors import LOST, outcome_of_error
from vldd_dist.store.store import Store

# When a rank fails because another one is gone, the others get this time to fail too; the rank that does not is the one gone.
GRACE_SECONDS = 10

# By value: see `start`.
for module in (exceptions, start):
    ray.cloudpickle.register_pickle_by_value(module)


class Attempt(Protocol):
    """Attributes:
    references: Ray objects of the running calls; `outcome` may have changed when one is ready.
    """

    references: list[ray.ObjectRef]

    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        ...

    def stop(self) -> None:
        """End it if it is still running, and free its resources."""
        ...


def _options(order: UnitOrder) -> dict[str, Any]:
    """Ray's options for the unit's resources, on another node than the one to avoid if there is one."""
    options: dict[str, Any] = {"num_cpus": order.cpus, "num_gpus": order.gpus}
    if order.avoid is not None:
        options |= {"label_selector": {"ray.io/node-id": f"!{order.avoid}"}, "fallback_strategy": [{"label_selector": {}}]}
    return options


class TaskAttempt:
    """A unit as a Ray task, whose process other units may use after it, unless it was given a GPU."""

    def __init__(self, order: UnitOrder, store: Store, events: Queue) -> None:
        # Not by `.options`: only of a function declared with GPUs does Ray end the process after a call. A process keeps the
        # GPU on which it first computed, whichever the next task is given.
        task = ray.remote(max_retries=0, name=order.label, **_options(order))(start.run_task)
        self.references = [task.remote(_payload(order, store), order.id, events)]
        self._ended = False
        self.stores_when_asked = order.stores_when_stopped

    def ask_to_stop(self) -> None:
        """Interrupt it, so that it stores its state and ends."""
        ray.cancel(self.references[0], force=False)

    def outcome(self) -> Outcome | None:
        outcome = outcome_of(self.references[0])
        self._ended = outcome is not None
        return outcome

    def stop(self) -> None:
        # Ray aborts the driver when a task is cancelled that has just ended.
        if not self._ended:
            ray.cancel(self.references[0], force=True)


class ExpertAttempt:
    """An expert in a process of its own."""

    def __init__(self, order: UnitOrder, store: Store, events: Queue) -> None:
        # Kept, since Ray ends an actor without a handle.
        self.actor = ray.remote(start.ExpertActor).options(max_restarts=0, **_options(order)).remote()
        self.references = [self.actor.run.remote(_payload(order, store), events)]

    def outcome(self) -> Outcome | None:
        return outcome_of(self.references[0])

    def stop(self) -> None:
        ray.kill(self.actor)


class GroupAttempt:
    """A unit of several ranks; if one fails, all are ended."""

    def __init__(self, order: UnitOrder, store: Store, events: Queue) -> None:
        needs = {"CPU": order.cpus} | ({"GPU": order.gpus} if order.gpus else {})
        self.group = placement_group([needs] * order.workers, strategy="PACK")
        self.actors = [
            ray.remote(start.RankActor)
            .options(
                num_cpus=order.cpus,
                num_gpus=order.gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank),
            )
            .remote()
            for rank in range(order.workers)
        ]
        rendezvous = self.actors[0].open.remote(order.workers)
        payload = _payload(order, store)
        self.references = [actor.run.remote(rendezvous, rank, payload, events) for rank, actor in enumerate(self.actors)]
        self._all = list(self.references)
        self._timeout = timedelta(seconds=order.execution.get("rank_timeout_seconds", 0))
        self._ended: dict[int, Outcome] = {}
        self._failed_at: float | None = None

    def outcome(self) -> Outcome | None:
        for rank, reference in enumerate(self._all):
            if reference in self.references and (outcome := outcome_of(reference)):
                self.references.remove(reference)
                self._ended[rank] = outcome
                if outcome.status not in ("done", "waits") and self._failed_at is None:
                    self._failed_at = time.monotonic()
        if len(self._ended) < len(self._all) and not self._grace_is_over():
            return None
        return worst(self._ended, len(self._all), self._timeout)

    def _grace_is_over(self) -> bool:
        if self._failed_at is None:
            return False
        # A failure of a rank's own is final. Of ranks that lost another one, the rest is awaited: it tells which one is gone.
        only_losses = all(outcome.status in ("lost", "done", "waits") for outcome in self._ended.values())
        return time.monotonic() - self._failed_at > (GRACE_SECONDS if only_losses else 0)

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.group)


def worst(ended: dict[int, Outcome], world: int, timeout: timedelta) -> Outcome:
    """The outcome of a group: a rank's own failure before those of ranks that only lost another one.

    Args:
        ended: rank -> outcome, of the ranks that have ended.
        timeout: of collective operations, for the message.
    """
    for status in ("refused", "crashed", "broken", "killed"):
        for rank, outcome in sorted(ended.items()):
            if outcome.status == status:
                return outcome if status == "refused" else replace(outcome, cause=f"rank {rank} of {world}: {outcome.cause}")
    lost = {rank: outcome.cause for rank, outcome in sorted(ended.items()) if outcome.status == "lost"}
    if not lost:
        # Done or waiting: the same on all ranks.
        return next(iter(ended.values()))
    if silent := sorted(set(range(world)) - set(ended)):
        hung = f"rank {', '.join(map(str, silent))} of {world}"
        return Outcome(
            "broken", f"{hung} took no part in a collective operation for {timeout.total_seconds():g} s: it hangs", 1
        )
    died = [f"rank {rank} of {world}: {cause}" for rank, cause in lost.items() if cause.startswith(LOST)]
    return Outcome("lost", (died or list(lost.values()))[0], 1)


def outcome_of(reference: ray.ObjectRef) -> Outcome | None:
    """What the worker returned, or else what Ray says of its end; None while it runs."""
    ready, _ = ray.wait([reference], timeout=0)
    if not ready:
        return None
    try:
        return Outcome(**ray.get(reference))
    except Exception as error:
        return outcome_of_error(error)


def _payload(order: UnitOrder, store: Store) -> bytes:
    return ray.cloudpickle.dumps((order, store))
