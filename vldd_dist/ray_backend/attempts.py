"""One attempt at a unit on Ray: a task, an expert's actor, or a group of ranks in a placement group."""

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
from vldd_dist.ray_backend import exceptions, start
from vldd_dist.ray_backend.errors import LOST, outcome_of_error
from vldd_dist.store.store import Store

# When a rank misses another one, all but that one soon do.
GRACE_SECONDS = 10

for module in (exceptions, start):
    ray.cloudpickle.register_pickle_by_value(module)


class Attempt(Protocol):
    """Attributes:
    references: one is ready when `outcome` may have something new.
    """

    references: list[ray.ObjectRef]

    def outcome(self) -> Outcome | None:
        """How it ended; none while it runs."""
        ...

    def stop(self) -> None:
        """End it if it runs still, and let go of what it held."""
        ...


def _place(order: UnitOrder) -> dict[str, Any]:
    """What it asks Ray for; another node than the one to avoid, if there is one."""
    place: dict[str, Any] = {"num_cpus": order.cpus, "num_gpus": order.gpus}
    if order.avoid is not None:
        place |= {"label_selector": {"ray.io/node-id": f"!{order.avoid}"}, "fallback_strategy": [{"label_selector": {}}]}
    return place


class TaskAttempt:
    """Most units."""

    def __init__(self, order: UnitOrder, store: Store, events: Queue) -> None:
        task = ray.remote(start.run_task).options(max_retries=0, name=order.label, **_place(order))
        self.references = [task.remote(_payload(order, store), order.id, events)]
        self._ended = False
        self.stores_when_asked = order.kind == "distillation"

    def ask_to_stop(self) -> None:
        """Let it store where it is."""
        ray.cancel(self.references[0], force=False)

    def outcome(self) -> Outcome | None:
        outcome = outcome_of(self.references[0])
        self._ended = outcome is not None
        return outcome

    def stop(self) -> None:
        # Ray aborts the driver when a task is cancelled as it ends.
        if not self._ended:
            ray.cancel(self.references[0], force=True)


class ExpertAttempt:
    """An expert of one process."""

    def __init__(self, order: UnitOrder, store: Store, events: Queue) -> None:
        # Dropping the handle would end the actor.
        self.actor = ray.remote(start.ExpertActor).options(max_restarts=0, **_place(order)).remote()
        self.references = [self.actor.run.remote(_payload(order, store), events)]

    def outcome(self) -> Outcome | None:
        return outcome_of(self.references[0])

    def stop(self) -> None:
        ray.kill(self.actor)


class GroupAttempt:
    """A unit of several ranks: one that fails ends all."""

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
        meeting = self.actors[0].open.remote(order.workers)
        payload = _payload(order, store)
        self.references = [actor.run.remote(meeting, rank, payload, events) for rank, actor in enumerate(self.actors)]
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
        if len(self._ended) < len(self._all) and not self._waited_enough():
            return None
        return worst(self._ended, len(self._all), self._timeout)

    def _waited_enough(self) -> bool:
        if self._failed_at is None:
            return False
        # Only a rank that misses another one waits for it; one that failed by itself has said all.
        missing = all(outcome.status in ("lost", "done", "waits") for outcome in self._ended.values())
        return time.monotonic() - self._failed_at > (GRACE_SECONDS if missing else 0)

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.group)


def worst(ended: dict[int, Outcome], world: int, timeout: timedelta) -> Outcome:
    """What became of a group, by rank: a failure that is a rank's own before those of ranks that only missed another."""
    for status in ("refused", "crashed", "broken", "killed"):
        for rank, outcome in sorted(ended.items()):
            if outcome.status == status:
                return outcome if status == "refused" else replace(outcome, cause=f"rank {rank} of {world}: {outcome.cause}")
    lost = {rank: outcome.cause for rank, outcome in sorted(ended.items()) if outcome.status == "lost"}
    if not lost:
        # All ranks end alike.
        return next(iter(ended.values()))
    if silent := sorted(set(range(world)) - set(ended)):
        hung = f"rank {', '.join(map(str, silent))} of {world} took no part in a collective operation for "
        return Outcome("broken", f"{hung}{timeout.total_seconds():g} s: it hangs", 1)
    died = [f"rank {rank} of {world}: {cause}" for rank, cause in lost.items() if cause.startswith(LOST)]
    return Outcome("lost", (died or list(lost.values()))[0], 1)


def outcome_of(reference: ray.ObjectRef) -> Outcome | None:
    """A worker's answer, or what Ray says of its end; none while it works."""
    ready, _ = ray.wait([reference], timeout=0)
    if not ready:
        return None
    try:
        return Outcome(**ray.get(reference))
    except Exception as error:
        return outcome_of_error(error)


def _payload(order: UnitOrder, store: Store) -> bytes:
    return ray.cloudpickle.dumps((order, store))
