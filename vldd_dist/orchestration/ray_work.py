"""One attempt at a unit on Ray: a task, an expert's actor, or a group of ranks in a placement group."""

import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import ray
from ray.exceptions import (
    ActorPlacementGroupRemoved,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
from ray.util import placement_group, remove_placement_group
from ray.util.queue import Queue
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vldd_dist.errors import VlddError
from vldd_dist.orchestration.outcomes import DONE, InputAwaited, Outcome
from vldd_dist.orchestration.units import UnitOrder
from vldd_dist.sharding.ranks import SOLO, LostRank, Ranks, Rendezvous, join, open_rendezvous
from vldd_dist.storage.store import Store

REPORT_INTERVAL_SECONDS = 0.5
# When a rank misses another one, all but that one soon do.
GRACE_SECONDS = 10


def run_order(order: UnitOrder, store: Store, events: Queue, ranks: Ranks = SOLO) -> Outcome:
    """One attempt at a unit, in a worker process: never raises what the coordinator would have to unpickle."""
    # Here, in the worker: the driver need not load the machine-learning libraries.
    from vldd_dist.orchestration.workspace import execute

    last = 0.0
    node = ray.get_runtime_context().get_node_id()

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_INTERVAL_SECONDS or event.get("done") == event.get("total") or "notice" in event:
            last = now
            events.actor.put_nowait.remote((order.id, event | {"node": node}))

    # Until now it waited for a place.
    report({})
    try:
        with _interrupts() as interrupted, ranks.noticing_a_loss():
            execute(order, store, report, ranks, interrupted)
        return DONE
    except InputAwaited as wait:
        return Outcome("waits", f"waits for {wait.role}", awaits=order.inputs[wait.role][1])
    except VlddError as error:
        return Outcome("refused", str(error), error.exit_code)
    except LostRank as error:
        return Outcome("lost", str(error), 1)
    except Exception as error:
        logging.getLogger(__name__).error("%s\n%s", order.label, traceback.format_exc())
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return Outcome("crashed", f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:400]}", 1)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether the task was cancelled since it began: Ray interrupts it as Ctrl-C would, wherever it is."""
    asked: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, previous)


def _timeout(order: UnitOrder) -> timedelta:
    return timedelta(seconds=order.execution.get("rank_timeout_seconds", 0))


class ExpertActor:
    """One expert's process, alive while that expert trains."""

    def run(self, order: UnitOrder, store: Store, events: Queue) -> Outcome:
        return run_order(order, store, events)


class RankActor:
    """One rank's process."""

    def open(self, world: int) -> Rendezvous:
        """Of rank 0: where the others find it."""
        meeting, self.server = open_rendezvous(ray.util.get_node_ip_address(), world)
        return meeting

    def run(self, meeting: Rendezvous, rank: int, order: UnitOrder, store: Store, events: Queue) -> Outcome:
        # Here, in the worker, as above.
        import torch

        cuda = order.gpus > 0 and order.execution["device"] != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if cuda else "cpu")
        try:
            ranks = join(meeting, rank, order.workers, device=device, timeout=_timeout(order))
        except RuntimeError as error:
            return Outcome("lost", f"rank {rank} of {order.workers} did not meet the others: {_first_line(error)}", 1)
        return run_order(order, store, events, ranks)


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
        task = ray.remote(run_order).options(max_retries=0, name=order.label, **_place(order))
        self.references = [task.remote(order, store, events)]
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
        self.actor = ray.remote(ExpertActor).options(max_restarts=0, **_place(order)).remote()
        self.references = [self.actor.run.remote(order, store, events)]

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
            ray.remote(RankActor)
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
        self.references = [actor.run.remote(meeting, rank, order, store, events) for rank, actor in enumerate(self.actors)]
        self._all = list(self.references)
        self._timeout = _timeout(order)
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
    for status in ("refused", "crashed"):
        for rank, outcome in sorted(ended.items()):
            if outcome.status == status:
                cause = outcome.cause if status == "refused" else f"rank {rank} of {world}: {outcome.cause}"
                return Outcome(status, cause, outcome.exit_code)
    lost = {rank: outcome.cause for rank, outcome in sorted(ended.items()) if outcome.status == "lost"}
    if not lost:
        # All ranks end alike.
        return next(iter(ended.values()))
    if silent := sorted(set(range(world)) - set(ended)):
        hung = f"rank {', '.join(map(str, silent))} of {world} took no part in a collective operation for "
        return Outcome("lost", f"{hung}{timeout.total_seconds():g} s: it hangs", 1)
    died = [f"rank {rank} of {world}: {cause}" for rank, cause in lost.items() if cause.startswith(DIED)]
    return Outcome("lost", (died or list(lost.values()))[0], 1)


# What Ray raises of a task or actor whose process, node or place is gone.
LOSSES = (
    ActorPlacementGroupRemoved,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RaySystemError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
DIED = "its process or machine ended"


def outcome_of(reference: ray.ObjectRef) -> Outcome | None:
    """A worker's answer, or what Ray says of its end; none while it works."""
    ready, _ = ray.wait([reference], timeout=0)
    if not ready:
        return None
    try:
        return ray.get(reference)
    except OutOfMemoryError as error:
        return Outcome("crashed", f"the worker ran out of memory: {_first_line(error)}", 1)
    except LOSSES as error:
        return Outcome("lost", f"{DIED}: {_first_line(error)}", 1)
    except RayError as error:
        return Outcome("crashed", _first_line(error), 1)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
