"""Units that are much slower than others of their kind: something is wrong with their machine, another one should have them."""

from collections import Counter, defaultdict
from statistics import median

from vldd_dist.monitoring.progress import ProgressBoard
from vldd_dist.pipeline.work_unit import WorkUnit

# A unit is judged after so long at work, against so many others; it is slow when they are so many times as fast.
SETTLED_SECONDS, PEERS, FACTOR = 120.0, 3, 3.0
# Machines may differ by design: moving must have an end.
MOVES = 2
IN_A_ROW = 3

Group = tuple[str, int | None]


class Stragglers:
    """Args:
    board: whose events say how fast each running unit is.
    """

    def __init__(self, board: ProgressBoard) -> None:
        self._board = board
        # Of ended units too: what is usual.
        self._speeds: dict[Group, dict[str, float]] = defaultdict(dict)
        self._moves: Counter[str] = Counter()
        # How often in a row: a validation or a slow store may hold up anyone for a while.
        self._slow: Counter[str] = Counter()

    def slow(self) -> list[tuple[WorkUnit, str]]:
        """Those that should be moved, and why; to be asked at even intervals."""
        now, found = self._board.clock(), []
        settled = []
        for unit_id, (unit, since) in self._board.running.items():
            event = self._board.latest.get(unit_id, {})
            speed = event.get("samples_per_second") or event.get("steps_per_second")
            if speed is not None:
                self._speeds[_group(unit)][unit_id] = speed
                if now - since >= SETTLED_SECONDS and unit.workers == 1 and self._moves[unit_id] < MOVES:
                    settled.append((unit, speed))
        for unit, speed in settled:
            others = [other for unit_id, other in self._speeds[_group(unit)].items() if unit_id != unit.id]
            if len(others) < PEERS or speed * FACTOR >= (usual := median(others)):
                del self._slow[unit.id]
                continue
            self._slow[unit.id] += 1
            if self._slow[unit.id] >= IN_A_ROW:
                found.append((unit, f"{usual / speed:.1f} times as slow as others of its kind"))
        return found

    def moved(self, unit: WorkUnit) -> None:
        """It runs elsewhere now: what it reached before says nothing."""
        self._moves[unit.id] += 1
        del self._slow[unit.id]
        self._speeds[_group(unit)].pop(unit.id, None)


def _group(unit: WorkUnit) -> Group:
    """Units whose speeds compare: runs of other budgets differ by design."""
    return unit.kind, unit.spec.get("pairs")
