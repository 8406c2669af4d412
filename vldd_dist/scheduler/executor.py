"""What the controller needs of the machinery below it."""

from dataclasses import dataclass
from typing import Any, Protocol

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder

Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Capacity:
    """What the executor can run at once; `may_grow`, when units that wait for a place may bring more machines."""

    cpus: float
    gpus: float
    may_grow: bool = False


class Executor(Protocol):
    """What the coordinator needs of the machinery below it."""

    def capacity(self) -> Capacity: ...

    def submit(self, order: UnitOrder) -> None: ...

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        """Units (by id) whose attempt ended since the last call; waits for the first at most so long."""
        ...

    def stop(self, unit_id: str) -> Outcome | None:
        """End an attempt; nothing more is heard of it. How it has ended, if it was faster."""
        ...

    def events(self) -> list[Event]:
        """Progress since the last call: (unit id, event)."""
        ...

    def lives(self, node: str) -> bool:
        """Whether the node of this id is still part of the cluster."""
        ...

    def close(self) -> None:
        """End everything still running. What units committed stays."""
        ...
