"""What Ray says of an attempt that gave no answer: one pure function tells whose failure it is."""

from ray.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.ray_backend.exceptions import describe, plain

# The node is gone, or cannot be reached, or its place was taken away with another one.
OF_THE_NODE = (
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    TaskPlacementGroupRemoved,
)
# Ray keeps no field for it: from the sentence of its control service.
WORKER_DIED = "its worker process has died"
LOST, KILLED = "its process or machine ended", "its process was killed"


def outcome_of_error(error: Exception) -> Outcome:
    """Of what `ray.get` raises for a unit's attempt. What a unit itself raises comes as an answer, not as an error: all others
    broke around it.
    """
    if isinstance(error, OutOfMemoryError):
        return Outcome("killed", f"{KILLED} by Ray, for its machine was short of memory: {_first_line(error)}", 1)
    if isinstance(error, WorkerCrashedError) or (isinstance(error, ActorDiedError) and WORKER_DIED in str(error)):
        return Outcome("killed", KILLED, 1)
    if isinstance(error, (*OF_THE_NODE, ActorDiedError)) and not getattr(error, "actor_init_failed", False):
        return Outcome("lost", f"{LOST}: {_first_line(error)}", 1)
    return Outcome("broken", describe(error), 1)


def _first_line(error: BaseException) -> str:
    return plain(str(error).strip().partition("\n")[0])
