"""From Ray's errors to outcomes: one pure function that tells the class of failure."""

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
from vldd_dist.ray_backend.workers.exceptions import describe, plain

# The node is gone or cannot be reached, or a placement group was removed because another node is gone.
NODE_ERRORS = (
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    TaskPlacementGroupRemoved,
)
# From the message of Ray's control service: the exception has no field for it.
WORKER_DIED = "its worker process has died"
LOST, KILLED = "its process or machine ended", "its process was killed"


def outcome_of_error(error: Exception) -> Outcome:
    """The outcome for what `ray.get` raised. What a unit's code raises is returned as an outcome by the worker, so this is
    about failures around the unit.
    """
    if isinstance(error, OutOfMemoryError):
        return Outcome("killed", f"{KILLED} by Ray because its machine was short of memory: {_first_line(error)}", 1)
    if isinstance(error, WorkerCrashedError) or (isinstance(error, ActorDiedError) and WORKER_DIED in str(error)):
        return Outcome("killed", KILLED, 1)
    if isinstance(error, (*NODE_ERRORS, ActorDiedError)) and not getattr(error, "actor_init_failed", False):
        return Outcome("lost", f"{LOST}: {_first_line(error)}", 1)
    return Outcome("broken", describe(error), 1)


def _first_line(error: BaseException) -> str:
    return plain(str(error).strip().partition("\n")[0])
