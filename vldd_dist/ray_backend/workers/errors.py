"""The outcome for each of Ray's errors, that is, the class of failure: one pure function."""

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

from vldd_dist.errors import first_line
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.ray_backend.workers.exceptions import describe, plain

# Errors of a node that is gone or unreachable, or of a placement group that was removed because another node is gone.
NODE_ERRORS = (
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    TaskPlacementGroupRemoved,
)
# Part of the message of Ray's control service; the exception has no field for this.
WORKER_DIED = "its worker process has died"
KILLED = "its process was killed"


def outcome_of_error(error: Exception) -> Outcome:
    """The outcome for an exception that `ray.get` raised. It concerns a failure around the unit, because a worker returns
    exceptions of a unit's own code as outcomes.
    """
    if isinstance(error, OutOfMemoryError):
        return Outcome("killed", f"{KILLED} by Ray because its machine was short of memory: {plain(first_line(error))}", 1)
    if isinstance(error, WorkerCrashedError) or (isinstance(error, ActorDiedError) and WORKER_DIED in str(error)):
        return Outcome("killed", KILLED, 1)
    if isinstance(error, (*NODE_ERRORS, ActorDiedError)) and not getattr(error, "actor_init_failed", False):
        return Outcome("lost", f"its process or machine ended: {plain(first_line(error))}", 1, died=True)
    return Outcome("broken", describe(error), 1)
