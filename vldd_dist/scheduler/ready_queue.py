"""Which units may start: those that lack no input, and of them the next one that what is free has room for."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from heapq import heappop, heappush
from typing import NamedTuple, Self

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Capacity

# So many later units may start before one that does not fit; then they leave free what it waits for.
PASSED_AT_MOST = 20
# Resources are counted in these parts, as Ray does: sums of fractions of a GPU must come out even.
PARTS = 10_000

# Long units first, so that none starts alone at the end.
PRIORITY = (
    "dataset",
    "image_weights",
    "caption_embeddings",
    "expert",
    "distillation",
    "features",
    "coreset",
    "evaluation",
    "publication",
)
_RANKS = {kind: rank for rank, kind in enumerate(PRIORITY)}


class Parts(NamedTuple):
    """Resources, in whole parts; below zero where machines left and what they ran has not ended yet."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, given: WorkUnit | Capacity) -> Self:
        return cls(round(given.cpus * PARTS), round(given.gpus * PARTS))

    def plus(self, other: "Parts") -> "Parts":
        return Parts(self.cpus + other.cpus, self.gpus + other.gpus)

    def less(self, other: "Parts") -> "Parts":
        return Parts(self.cpus - other.cpus, self.gpus - other.gpus)

    def or_more(self, other: "Parts") -> "Parts":
        """Of each resource what is more."""
        return Parts(max(self.cpus, other.cpus), max(self.gpus, other.gpus))

    def holds(self, other: "Parts") -> bool:
        """Whether there is enough of all that `other` asks for."""
        return all(not wanted or wanted <= have for have, wanted in zip(self, other, strict=True))

    def spares(self, other: "Parts", waiting: "Parts") -> bool:
        """Whether what is left without `other` does not keep `waiting` longer: it takes none of what is short."""
        return all(not took or free - took >= wanted for free, took, wanted in zip(self, other, waiting, strict=True))


class WaitingUnits:
    """Units that lack inputs: of each how many, and of each input that is missing who waits for it."""

    def __init__(self) -> None:
        self._missing: dict[str, int] = {}
        self._users: dict[str, list[str]] = defaultdict(list)

    def add(self, unit_id: str, missing: Collection[str]) -> None:
        """Args:
        missing: ids of the inputs that are not done, one at least.
        """
        self._missing[unit_id] = len(missing)
        for input_id in missing:
            self._users[input_id].append(unit_id)

    def done(self, input_id: str) -> list[str]:
        """An input is there: the units that lack none any more, which wait no longer."""
        complete = []
        for user_id in self._users.pop(input_id, ()):
            # Else it needs another one too, which failed.
            if user_id in self._missing:
                self._missing[user_id] -= 1
                if not self._missing[user_id]:
                    del self._missing[user_id]
                    complete.append(user_id)
        return complete

    def failed(self, input_id: str) -> list[str]:
        """An input will never be there: the units that need it, and those that need them, which wait no longer."""
        blocked: list[str] = []
        lost = [input_id]
        while lost:
            for user_id in self._users.pop(lost.pop(), ()):
                if self._missing.pop(user_id, None) is not None:
                    blocked.append(user_id)
                    lost.append(user_id)
        return blocked


class ReadyQueue:
    """Units whose inputs are done, one queue for all that ask for the same resources, so that of each only the first is
    looked at.

    The order is that of `PRIORITY`, then of the plan. A unit that does not fit is passed by later ones that do,
    `PASSED_AT_MOST` times; from then on later ones start only where they take nothing of what it waits for. One that is
    larger than the whole cluster makes none wait.
    """

    def __init__(self) -> None:
        self._queues: dict[Parts, list[tuple[int, int, WorkUnit]]] = defaultdict(list)
        self._passed: dict[Parts, int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, unit: WorkUnit, position: int) -> None:
        """Args:
        position: in the plan.
        """
        heappush(self._queues[Parts.of(unit)], (_RANKS[unit.kind], position, unit))

    def take(self, free: Parts, capacity: Parts, promised: Iterable[Parts] = ()) -> WorkUnit | None:
        """The next unit to start, or none that may.

        Args:
            promised: what is to be left free when it comes free.
        """
        promised = list(promised)
        passed: list[Parts] = []
        for wanted in self._in_order():
            starving = [other for other in passed if self._passed[other] >= PASSED_AT_MOST]
            if free.holds(wanted) and all(free.spares(wanted, other) for other in promised + starving):
                for other in passed:
                    self._passed[other] += 1
                self._passed.pop(wanted, None)
                return self._pop(wanted)
            if capacity.holds(wanted):
                passed.append(wanted)
        return None

    def first(self, within: Parts | None = None) -> WorkUnit | None:
        """The next in order that as much could hold; without a limit the next at all."""
        fitting = (wanted for wanted in self._in_order() if within is None or within.holds(wanted))
        wanted = next(fitting, None)
        return None if wanted is None else self._queues[wanted][0][-1]

    def take_first(self) -> WorkUnit | None:
        """The next in order, whether it fits or not."""
        return self._pop(self._in_order()[0]) if self._queues else None

    def _in_order(self) -> list[Parts]:
        return sorted(self._queues, key=lambda wanted: self._queues[wanted][0][:2])

    def _pop(self, wanted: Parts) -> WorkUnit:
        queue = self._queues[wanted]
        unit = heappop(queue)[-1]
        if not queue:
            del self._queues[wanted]
        return unit
