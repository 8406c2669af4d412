"""The interface to what runs units: Ray, or a scripted executor in tests."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vldd_dist.events import UnitReported
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder


@dataclass(frozen=True)
class Capacity:
    """CPUs and GPUs of all machines together, whether reserved or free.

    Attributes:
        may_grow: whether an autoscaler may add machines for units that wait for resources.
        used_cpus, used_gpus: what running workers use, those of other programs on the cluster included.
    """

    cpus: float
    gpus: float
    may_grow: bool = False
    used_cpus: float = 0.0
    used_gpus: float = 0.0


class NodeSize(NamedTuple):
    """CPUs and GPUs of one machine, whether reserved or free."""

    cpus: float
    gpus: float


class Executor(Protocol):
    """Runs attempts at units. All methods are called from the controller's thread."""

    def capacity(self) -> Capacity:
        """What all machines of the cluster have now."""
        ...

    def submit(self, order: UnitOrder) -> None:
        """Start an attempt, or queue it until its resources are free."""
        ...

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        """(unit id, outcome) of each attempt that ended since the last call. Blocks until one ends or the timeout passes."""
        ...

    def stop(self, unit_id: str) -> Outcome | None:
        """Stop an attempt; nothing more is reported about it. Returns its outcome if it had already ended."""
        ...

    def reports(self) -> list[UnitReported]:
        """The reports that units sent since the last call, in order."""
        ...

    def nodes(self) -> dict[str, NodeSize]:
        """The size of each living node, by the node's id."""
        ...

    def is_alive(self, node: str) -> bool:
        """Whether the node with this id is still part of the cluster."""
        ...

    def close(self) -> None:
        """Stop all running attempts. Committed units stay in the store."""
        ...
