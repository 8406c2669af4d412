"""Units whose inputs are committed, in the order in which they should start."""

from collections import defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush

from vldd_dist.pipeline.stage import stage_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.submitting.resource_set import ResourceSet

# How often later units may overtake a unit that does not fit. After that, they must not take resources that it lacks.
MAX_OVERTAKEN = 20


class ReadyQueue:
    """A priority queue with one heap for each resource request, so that `take` looks only at the first unit of each heap.

    Units are ordered by `StageSpec.priority`, then by their position in the plan. Later units may overtake one that does not
    fit `MAX_OVERTAKEN` times; after that, only units that take nothing it lacks may. A unit that is larger than the whole
    cluster delays no other unit.
    """

    def __init__(self) -> None:
        self._heaps: dict[ResourceSet, list[tuple[int, int, WorkUnit]]] = defaultdict(list)
        self._overtaken: dict[ResourceSet, int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._heaps)

    def add(self, unit: WorkUnit, position: int) -> None:
        """Add a unit whose inputs are committed.

        Args:
            position: index of the unit in the plan.
        """
        heappush(self._heaps[ResourceSet.of(unit)], (stage_of(unit.kind).priority, position, unit))

    def take(self, free: ResourceSet, capacity: ResourceSet, promised: Iterable[ResourceSet] = ()) -> WorkUnit | None:
        """Remove and return the next unit that may start now, or None.

        Args:
            promised: requests of units outside this queue, which a unit taken from it must not delay.
        """
        promised = list(promised)
        too_large: list[ResourceSet] = []
        for request in self._in_order():
            starving = [other for other in too_large if self._overtaken[other] >= MAX_OVERTAKEN]
            if free.covers(request) and all(free.leaves_enough_for(other, after=request) for other in promised + starving):
                for other in too_large:
                    self._overtaken[other] += 1
                self._overtaken.pop(request, None)
                return self._pop(request)
            if capacity.covers(request):
                too_large.append(request)
        return None

    def take_first(self) -> WorkUnit | None:
        """Remove and return the next unit, whether or not it fits."""
        return self._pop(self._in_order()[0]) if self._heaps else None

    def first(self) -> WorkUnit | None:
        """The next unit, without removing it."""
        return self._heaps[self._in_order()[0]][0][-1] if self._heaps else None

    def _in_order(self) -> list[ResourceSet]:
        return sorted(self._heaps, key=lambda request: self._heaps[request][0][:2])

    def _pop(self, request: ResourceSet) -> WorkUnit:
        heap = self._heaps[request]
        unit = heappop(heap)[-1]
        if not heap:
            del self._heaps[request]
        return unit
