"""Work units: all work that takes time is cut into units, each identified by a hash of what determines its output."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

from vldd_dist.config.base import Device, Resources, Sharding


class AvoidedNodes(NamedTuple):
    """The nodes on which a unit should not run again, by Ray's ids.

    Attributes:
        strictly: for other nodes than these the unit waits, as long as they are large enough for it. The latest comes last.
        preferably: on this node it runs only if the others are busy.
    """

    strictly: tuple[str, ...] = ()
    preferably: str | None = None


NO_NODES = AvoidedNodes()


@dataclass(frozen=True)
class WorkUnit:
    """One node of the graph.

    Attributes:
        kind: a name in `plugins.STAGES`.
        spec: what determines the output, apart from the inputs; plain JSON values.
        inputs: role -> input unit.
        execution: what else the stage reads, without effect on the output (readers, checkpoint interval); plain JSON values.
        resources: what one worker asks Ray for.
        label: its name in progress and error messages.
        workers: the number of ranks that make it together, each with `resources`.
        sharding: how its student or expert is distributed over them.
        rank_timeout_seconds: after what time without an answer a rank counts as lost; 0 for a kind that never has ranks.
        device: auto: a GPU if `resources` have one.
        later: roles of inputs without which it may start. Its attempt ends (`InputAwaited`) when it needs one that is not
            committed.
        version, own_process, stores_when_stopped: as in its stage (`StageSpec`).
    """

    kind: str
    spec: dict[str, Any]
    inputs: "dict[str, WorkUnit]" = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    label: str = ""
    workers: int = 1
    sharding: Sharding = "none"
    rank_timeout_seconds: float = 0
    device: Device = "auto"
    later: frozenset[str] = frozenset()
    version: int = 1
    own_process: bool = False
    stores_when_stopped: bool = False

    @property
    def cpus(self) -> float:
        """CPU cores of all workers."""
        return self.resources.cpus * self.workers

    @property
    def gpus(self) -> float:
        """GPUs of all workers."""
        return self.resources.gpus * self.workers

    @cached_property
    def id(self) -> str:
        return id_of(self.kind, self.version, self.spec, {role: unit.id for role, unit in self.inputs.items()})

    def order(self, avoid: AvoidedNodes = NO_NODES) -> "UnitOrder":
        """The order that is sent to a worker.

        Args:
            avoid: the nodes on which the unit should not run.
        """
        return UnitOrder(
            kind=self.kind,
            id=self.id,
            spec=self.spec,
            inputs={role: (unit.kind, unit.id) for role, unit in self.inputs.items()},
            execution=self.execution,
            worker_cpus=self.resources.cpus,
            worker_gpus=self.resources.gpus,
            label=self.label,
            workers=self.workers,
            sharding=self.sharding,
            rank_timeout_seconds=self.rank_timeout_seconds,
            device=self.device,
            own_process=self.own_process,
            stores_when_stopped=self.stores_when_stopped,
            avoid=avoid,
        )


@dataclass(frozen=True)
class UnitOrder:
    """A unit as it is sent to a worker, without its graph.

    Attributes:
        inputs: role -> (kind, id), by which the worker finds the input in the store.
        worker_cpus, worker_gpus: what one worker may use; those of a `WorkUnit` are of all its workers.
        avoid: the nodes on which it should not run, because an earlier attempt failed or was slow there.
    """

    kind: str
    id: str
    spec: dict[str, Any]
    inputs: dict[str, tuple[str, str]]
    execution: dict[str, Any]
    worker_cpus: float
    worker_gpus: float
    label: str
    workers: int = 1
    sharding: Sharding = "none"
    rank_timeout_seconds: float = 0
    device: Device = "auto"
    own_process: bool = False
    stores_when_stopped: bool = False
    avoid: AvoidedNodes = NO_NODES

    @property
    def is_group(self) -> bool:
        """Whether ranks make it, which connect to each other; a sharded unit is one even if it has a single rank."""
        return self.workers > 1 or self.sharding != "none"


def id_of(kind: str, version: int, spec: dict[str, Any], inputs: dict[str, str]) -> str:
    """The id of a unit: 16 hex digits, a hash of what determines the output.

    Args:
        version: of the stage.
        inputs: role -> id.
    """
    identity = {"kind": kind, "version": version, "spec": spec, "inputs": inputs}
    return sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def in_dependency_order(targets: list[WorkUnit]) -> list[WorkUnit]:
    """The targets and all their direct and indirect inputs, each unit once, inputs before the units that use them."""
    seen: dict[str, WorkUnit] = {}

    def visit(unit: WorkUnit) -> None:
        if unit.id not in seen:
            for needed in unit.inputs.values():
                visit(needed)
            seen[unit.id] = unit

    for target in targets:
        visit(target)
    return list(seen.values())
