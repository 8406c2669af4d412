"""Numbers of CPUs and GPUs in exact arithmetic."""

from typing import NamedTuple, Self

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Capacity, NodeSize

# Amounts are integer multiples of 1/10,000, as in Ray, so that three times 0.1 GPUs is exactly 0.3.
SCALE = 10_000


class ResourceSet(NamedTuple):
    """CPUs and GPUs in units of 1 / `SCALE`. A free amount is negative while units on machines that left have not ended yet."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, owner: WorkUnit | Capacity | NodeSize) -> Self:
        return cls.of_amounts(owner.cpus, owner.gpus)

    @classmethod
    def of_amounts(cls, cpus: float, gpus: float) -> Self:
        return cls(round(cpus * SCALE), round(gpus * SCALE))

    def __str__(self) -> str:
        return f"{self.cpus / SCALE:g} CPUs and {self.gpus / SCALE:g} GPUs"

    def plus(self, other: "ResourceSet") -> "ResourceSet":
        return ResourceSet(self.cpus + other.cpus, self.gpus + other.gpus)

    def minus(self, other: "ResourceSet") -> "ResourceSet":
        return ResourceSet(self.cpus - other.cpus, self.gpus - other.gpus)

    def covers(self, request: "ResourceSet") -> bool:
        """Whether this is enough of every resource that `request` asks for."""
        return all(not asked or asked <= available for available, asked in zip(self, request, strict=True))

    def leaves_enough_for(self, waiting: "ResourceSet", after: "ResourceSet") -> bool:
        """Whether a unit that asks for `after` can start without delaying one that asks for `waiting`: for each resource that
        `after` uses, the rest still covers `waiting`."""
        return all(not taken or free - taken >= needed for free, taken, needed in zip(self, after, waiting, strict=True))


NOTHING = ResourceSet(0, 0)
