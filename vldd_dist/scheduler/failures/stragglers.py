"""Finds units that are much slower than others of their kind: their machine probably has a problem, so they should be moved."""

import json
from collections import Counter, defaultdict
from statistics import median

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.running import RunningUnits

# A unit is judged once it has run this long, if there are at least this many others to compare it with.
WARM_UP_SECONDS, MIN_PEERS = 120.0, 3
# It is slow if the median speed of the others is more than this many times its own.
SLOWDOWN = 3.0
# It is moved when it is slow in this many checks in a row: a validation or a slow store may delay any unit for a while.
CONSECUTIVE_CHECKS = 3
# A unit is moved at most this many times, because a cluster may have machines of different speeds on purpose.
MAX_MOVES = 2


class Stragglers:
    """Compares the speeds that running units report."""

    def __init__(self, running: RunningUnits) -> None:
        self._running = running
        # Group -> unit id -> latest speed, including units that have ended.
        self._speeds: dict[str, dict[str, float]] = defaultdict(dict)
        # Unit id -> its group, once it has reported a speed.
        self._groups: dict[str, str] = {}
        self._moves: Counter[str] = Counter()
        self._slow_checks: Counter[str] = Counter()

    def slow(self) -> list[tuple[WorkUnit, str]]:
        """The units that should be moved, each with the reason. Call it at regular intervals."""
        now = self._running.clock()
        candidates, slow = [], []
        for running in self._running:
            unit, speed = running.unit, running.speed
            if speed is not None:
                if unit.id not in self._groups:
                    self._groups[unit.id] = _group(unit)
                self._speeds[self._groups[unit.id]][unit.id] = speed
                # A unit of several ranks stays: any of its nodes may be the slow one.
                movable = unit.workers == 1 and self._moves[unit.id] < MAX_MOVES
                if movable and now - running.started_at >= WARM_UP_SECONDS:
                    candidates.append((unit, speed))
        for unit, speed in candidates:
            others = [other for unit_id, other in self._speeds[self._groups[unit.id]].items() if unit_id != unit.id]
            if len(others) < MIN_PEERS or speed * SLOWDOWN >= (usual := median(others)):
                del self._slow_checks[unit.id]
                continue
            self._slow_checks[unit.id] += 1
            if self._slow_checks[unit.id] >= CONSECUTIVE_CHECKS:
                slow.append((unit, f"{usual / speed:.1f} times as slow as others of its kind"))
        return slow

    def moved(self, unit: WorkUnit) -> None:
        """Record that the unit was stopped to run on another node, and forget its speed."""
        self._moves[unit.id] += 1
        del self._slow_checks[unit.id]
        self._speeds[self._groups[unit.id]].pop(unit.id, None)


def _group(unit: WorkUnit) -> str:
    """The group of units whose speeds can be compared: all that a speed depends on is equal. Units of one kind may differ in
    their model, number of pairs or objective, in a study also in their data and resources."""
    spec = {name: value for name, value in unit.spec.items() if name not in ("seed", "index")}
    dataset = unit.inputs["dataset"].id if "dataset" in unit.inputs else None
    how_it_runs = [unit.cpus, unit.gpus, unit.workers, unit.sharding, unit.device, unit.execution]
    return json.dumps([unit.kind, how_it_runs, dataset, spec], sort_keys=True)
