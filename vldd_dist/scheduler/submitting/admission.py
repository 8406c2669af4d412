"""Which units may be submitted now, given the capacity of the machines and the part of it that is reserved.

A submitted unit is first queued and then admitted. Admitting it reserves its resources, either because they are free by this
count or because its worker has reported. Where an autoscaler may add machines, some units are submitted beyond the capacity
and stay queued, because an autoscaler reacts to waiting work.
"""

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.submitting.resource_set import NOTHING, ResourceSet
from vldd_dist.scheduler.submitting.shortage import Shortage

# The largest number of units that are queued beyond the capacity.
MAX_QUEUED = 32


class Admission:
    """The submitted units, and the resources that are reserved for them.

    Args:
        max_running: the largest number of submitted units at once, at least 1; None: as many as fit.

    Attributes:
        capacity: of all machines together, at the last update.
        used: by workers on the machines at the last update, including those of other programs.
        may_grow: whether an autoscaler may add machines.
        submitted: ids of all units that were submitted and have not ended.
        queued: id -> unit, for the submitted units whose resources are not reserved, in the order of submission.
    """

    def __init__(self, max_running: int | None = None) -> None:
        assert max_running is None or max_running >= 1
        self.max_running = max_running
        self.capacity = self.used = self._reserved = NOTHING
        self.may_grow = False
        self.submitted: set[str] = set()
        self.queued: dict[str, WorkUnit] = {}

    def update(self, capacity: Capacity) -> None:
        """Set the present capacity of the machines."""
        self.capacity = ResourceSet.of(capacity)
        self.used = ResourceSet.of_amounts(capacity.used_cpus, capacity.used_gpus)
        self.may_grow = capacity.may_grow

    @property
    def free(self) -> ResourceSet:
        return self.capacity.minus(self._reserved)

    def fits(self, unit: WorkUnit) -> bool:
        """Whether enough resources are free for the unit now."""
        return self.free.covers(ResourceSet.of(unit))

    def could_run(self, unit: WorkUnit) -> bool:
        """Whether the machines together have enough resources for the unit, whether or not they are free."""
        return self.capacity.covers(ResourceSet.of(unit))

    def may_submit(self) -> bool:
        """Whether `max_running` allows one more unit."""
        return self.max_running is None or len(self.submitted) < self.max_running

    def may_queue(self) -> bool:
        """Whether one more unit that does not fit now may be submitted."""
        return len(self.queued) < MAX_QUEUED and self.may_submit()

    def queued_within_capacity(self) -> list[ResourceSet]:
        """Requests of the queued units that the present machines could run once other units have ended."""
        requests = [ResourceSet.of(unit) for unit in self.queued.values()]
        return [request for request in requests if self.capacity.covers(request)]

    def submit(self, unit: WorkUnit) -> None:
        self.submitted.add(unit.id)
        self.queued[unit.id] = unit

    def admit(self, unit_id: str) -> WorkUnit | None:
        """Reserve a queued unit's resources, even beyond the capacity. Returns the unit, or None if it is not queued."""
        if unit := self.queued.pop(unit_id, None):
            self._reserved = self._reserved.plus(ResourceSet.of(unit))
        return unit

    def release(self, unit: WorkUnit) -> None:
        """Free the resources of an admitted unit that has ended."""
        self.submitted.remove(unit.id)
        self._reserved = self._reserved.minus(ResourceSet.of(unit))

    def has_room(self, unit: WorkUnit) -> bool:
        """Whether the machines together have enough resources that no worker uses. If not while no worker of this run has
        started, workers of other programs use them."""
        return self.capacity.minus(self.used).covers(ResourceSet.of(unit))

    def shortfall(self, unit: WorkUnit) -> str:
        """What the unit asks for and what the machines have, for messages."""
        return f"{unit.label} asks for {unit.cpus:g} CPUs and {unit.gpus:g} GPUs, the machines have {self.capacity}"

    def shortage_now(self, unit: WorkUnit) -> Shortage:
        """For a unit that the machines cannot run now, but could before, or may when others have come."""
        return Shortage(f"{self.shortfall(unit)} now", "machines", "no others came")

    def shortage_of_started(self, unit: WorkUnit, avoids: bool) -> Shortage:
        """For an admitted unit whose worker has not started.

        Args:
            avoids: whether it avoids machines on which it failed.
        """
        problem = f"{self.shortfall(unit)} in total"
        if self.has_room(unit):
            # Whether a single machine has enough is known only when a worker starts.
            which = " on which it has not failed" if avoids else ""
            return Shortage(problem, f"one machine with that much free{which}", "none started it")
        # Ray also counts what it has given to workers of this run that have not reported yet.
        used = f"of which other programs, or workers that are still starting, use {self.used}"
        return Shortage(f"{problem}, {used}", "them", "none became free", times_out=False)
