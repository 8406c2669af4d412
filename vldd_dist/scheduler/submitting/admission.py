"""Which units may be submitted now: the capacity of the machines, and what is reserved of it.

A submitted unit is first queued, then admitted: its resources are reserved, because by this count they are free, or because
its worker has reported. Where the machines may grow, some units are submitted beyond the capacity and stay queued, since an
autoscaler acts on what waits.
"""

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.submitting.resource_set import NOTHING, SCALE, ResourceSet

# Most units that are queued beyond the capacity.
MAX_QUEUED = 32


class Admission:
    """Args:
        max_running: most submitted units at once, at least 1; None: as many as fit.

    Attributes:
        capacity: of all machines, as last asked for.
        peak: of each resource the largest capacity since the run began.
        may_grow: whether an autoscaler may add machines.
        submitted: ids of all units that are submitted and have not ended.
        queued: those of them whose resources are not reserved, by id, in the order of submission.
    """

    def __init__(self, max_running: int | None = None) -> None:
        assert max_running is None or max_running >= 1
        self.max_running = max_running
        self.capacity = self.peak = self._reserved = NOTHING
        self.may_grow = False
        self.submitted: set[str] = set()
        self.queued: dict[str, WorkUnit] = {}

    def update(self, capacity: Capacity) -> None:
        """Take note of what the machines have now."""
        self.capacity = ResourceSet.of(capacity)
        self.peak = self.peak.maximum(self.capacity)
        self.may_grow = capacity.may_grow

    @property
    def free(self) -> ResourceSet:
        return self.capacity.minus(self._reserved)

    def fits(self, unit: WorkUnit) -> bool:
        """Whether the unit's resources are free now."""
        return self.free.covers(ResourceSet.of(unit))

    def may_submit(self) -> bool:
        """Whether `max_running` allows one more."""
        return self.max_running is None or len(self.submitted) < self.max_running

    def may_queue(self) -> bool:
        """Whether one more unit may be submitted that does not fit now."""
        return len(self.queued) < MAX_QUEUED and self.may_submit()

    def queued_within_capacity(self) -> list[ResourceSet]:
        """What queued units ask for that the present machines could run, once others have ended."""
        return [wanted for unit in self.queued.values() if self.capacity.covers(wanted := ResourceSet.of(unit))]

    def submit(self, unit: WorkUnit) -> None:
        self.submitted.add(unit.id)
        self.queued[unit.id] = unit

    def admit(self, unit_id: str) -> WorkUnit | None:
        """Reserve a queued unit's resources, even beyond the capacity. Returns the unit; None if it is not queued."""
        if unit := self.queued.pop(unit_id, None):
            self._reserved = self._reserved.plus(ResourceSet.of(unit))
        return unit

    def release(self, unit: WorkUnit) -> None:
        """An admitted unit ended."""
        self.submitted.remove(unit.id)
        self._reserved = self._reserved.minus(ResourceSet.of(unit))

    def shortfall(self, unit: WorkUnit) -> str:
        """What the unit asks for and what there is, for messages."""
        has = f"{self.capacity.cpus / SCALE:g} and {self.capacity.gpus / SCALE:g}"
        return f"{unit.label} asks for {unit.cpus:g} CPUs and {unit.gpus:g} GPUs, the machines have {has}"
