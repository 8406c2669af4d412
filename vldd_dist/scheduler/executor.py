"""What the controller needs of whatever runs units: Ray, or a script in tests."""

from dataclasses import dataclass
from typing import Protocol

from vldd_dist.events import UnitReported
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder


@dataclass(frozen=True)
class Capacity:
    """CPUs and GPUs of all machines together, reserved or not.

    Attributes:
        may_grow: units that wait for resources may cause an autoscaler to add machines.
    """

    cpus: float
    gpus: float
    may_grow: bool = False


class Executor(Protocol):
    """Runs attempts at units. All methods are called from the controller's thread."""

    def capacity(self) -> Capacity: ...

    def submit(self, order: UnitOrder) -> None:
        """Start an attempt, or queue it until its resources are free."""
        ...

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        """(unit id, outcome) of attempts that ended since the last call. Blocks until the first one ends or the timeout."""
        ...

    def stop(self, unit_id: str) -> Outcome | None:
        """End an attempt; nothing more is reported of it. Returns its outcome if it had ended already."""
        ...

    def reports(self) -> list[UnitReported]:
        """What units reported since the last call, in order."""
        ...

    def is_alive(self, node: str) -> bool:
        """Whether the node with this id is still part of the cluster."""
        ...

    def close(self) -> None:
        """End everything still running. What units committed stays in the store."""
        ...
