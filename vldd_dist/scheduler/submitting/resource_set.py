"""Amounts of CPUs and GPUs in exact arithmetic."""

from typing import NamedTuple, Self

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Capacity

# Amounts are whole multiples of 1/10,000, as in Ray: three times 0.1 of a GPU must be exactly 0.3.
SCALE = 10_000


class ResourceSet(NamedTuple):
    """CPUs and GPUs in units of 1 / `SCALE`. Negative where machines left and the units on them have not ended yet."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, given: WorkUnit | Capacity) -> Self:
        return cls(round(given.cpus * SCALE), round(given.gpus * SCALE))

    def plus(self, other: "ResourceSet") -> "ResourceSet":
        return ResourceSet(self.cpus + other.cpus, self.gpus + other.gpus)

    def minus(self, other: "ResourceSet") -> "ResourceSet":
        return ResourceSet(self.cpus - other.cpus, self.gpus - other.gpus)

    def maximum(self, other: "ResourceSet") -> "ResourceSet":
        """The larger amount of each resource."""
        return ResourceSet(max(self.cpus, other.cpus), max(self.gpus, other.gpus))

    def covers(self, request: "ResourceSet") -> bool:
        """Whether there is enough of every resource that `request` asks for."""
        return all(not asked or asked <= have for have, asked in zip(self, request, strict=True))

    def leaves_enough_for(self, waiting: "ResourceSet", after: "ResourceSet") -> bool:
        """Whether giving `after` away takes nothing that `waiting` is short of: of each resource that `after` uses, what is
        left still covers `waiting`."""
        return all(not taken or free - taken >= needed for free, taken, needed in zip(self, after, waiting, strict=True))


NOTHING = ResourceSet(0, 0)
