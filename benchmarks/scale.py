"""The resources that the controller needs on the driver's machine with thousands of units.

    python -m benchmarks.scale [--quick]

The real controller, with the views of a real run that need no Ray (lines or a live table, and the status in the store), runs
the plan of a real description (100 experts; distillations that need all of them, each evaluated five times and published). An
executor simulates units with its own clock, at least 450 in parallel, and the store is a folder. Measured are the driver's
CPU seconds without those of the executor, the growth of its resident set in a new process (including the plan), and its
requests to the store: a listing counts one for every 1,000 keys, a write counts two, because the object is compared
afterwards. Not counted are requests of workers (see benchmarks/scaling_model.py) and of the report, which reads the manifest
of nearly every unit once.

The last line is JSON, for the largest size with lines as view: ms_per_unit, driver_mib_per_1000_units, requests_per_unit, and
ms_growth, the time per unit over that at 1,000 units.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks._measure import FreshProcess, peak_memory, print_json
from vldd_dist.artifacts.runs.run_units import RunUnits
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.events import Progress, UnitReported
from vldd_dist.monitoring.live.console import LiveView, PlainView
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.monitoring.live.status import StatusWriter
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.outcome import DONE, Outcome
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity, NodeSize
from vldd_dist.scheduler.limits import RunClock
from vldd_dist.store.backends.base import Limit
from vldd_dist.store.store import Store

PRESETS = Path(__file__).parents[1] / "jobs" / "presets"
SIZES = (1_000, 10_000)
EXPERTS, CAPACITY, LISTED_AT_ONCE, REPORT_SECONDS = 100, Capacity(cpus=500, gpus=450), 1_000, 0.5
# Duration of simulated units by kind, varied by half; other kinds take one second.
SECONDS = {"expert": 30.0, "distillation": 20.0, "evaluation": 5.0, "coreset": 3.0}
MIB = 2**20

Out = TypeVar("Out")


def make_units(size: int) -> list[WorkUnit]:
    """About `size` units; experts and distillations request a GPU, evaluations half a GPU."""
    # Each seed adds seven units; the others are experts with their evaluations, coresets, and shared inputs.
    seeds = max(1, math.ceil((size - 2 * EXPERTS - 47) / 7))
    overrides = [
        *("model.image.weights=random", "model.text.model=bert-base-uncased", f"experts.count={EXPERTS}"),
        *("distill.pairs=[100]", f"distill.seeds={list(range(seeds))}", "evaluation.seeds=[0, 1, 2, 3, 4]"),
        *("experts.resources.gpus=1", "distill.resources.gpus=1", "evaluation.resources.gpus=0.5"),
    ]
    return Graph(load_experiment(PRESETS / "scenes.yaml", overrides)).units()


class CountingStore(Store):
    """A store that counts the requests that an object store would receive.

    Attributes:
        writes: requests that wrote an object or checked it afterwards.
    """

    requests = writes = 0

    def _guarded(self, key: str, operation: Callable[[str, Limit], Out], size: int = 0) -> Out:
        self.requests += 1
        return super()._guarded(key, operation, size)

    def write(self, key: str, data: bytes) -> None:
        super().write(key, data)
        # `_guarded` has counted one request.
        self.requests += 1
        self.writes += 2

    def keys(self, prefix: str) -> list[str]:
        keys = super().keys(prefix)
        self.requests += max(0, math.ceil(len(keys) / LISTED_AT_ONCE) - 1)
        return keys


class SimulatedExecutor:
    """An executor of simulated units, which end at a given time and leave a manifest. `now` advances when the controller waits;
    `aside` is the CPU time in seconds that the controller's thread spends in this class (another thread writes the status)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = self.aside = self.reported = 0.0
        self.ends: list[tuple[float, str, UnitOrder]] = []
        self.most_at_once = self.asked = self.polls = 0

    def clock(self) -> float:
        return self.now

    @contextmanager
    def _aside(self) -> Iterator[None]:
        started = time.thread_time()
        yield
        self.aside += time.thread_time() - started

    def capacity(self) -> Capacity:
        self.asked += 1
        return CAPACITY

    def submit(self, order: UnitOrder) -> None:
        with self._aside():
            spread = 0.5 + int(order.id[:4], 16) / 2**16
            heappush(self.ends, (self.now + spread * SECONDS.get(order.kind, 1.0), order.id, order))
            self.most_at_once = max(self.most_at_once, len(self.ends))

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        with self._aside():
            self.polls += 1
            self.now = min(self.now + timeout_seconds, max(self.now, self.ends[0][0]))
            ended = []
            while self.ends and self.ends[0][0] <= self.now:
                order = heappop(self.ends)[-1]
                self.store.create(f"units/{order.kind}/{order.id}/manifest.json", b"{}")
                ended.append((order.id, DONE))
        return ended

    def reports(self) -> list[UnitReported]:
        with self._aside():
            if self.now - self.reported < REPORT_SECONDS:
                return []
            self.reported = self.now
            return [UnitReported(unit_id, Progress(1, 2, loss=1.0)) for _, unit_id, _ in self.ends]

    def stop(self, unit_id: str) -> None:
        raise AssertionError("no simulated unit is slow")

    def nodes(self) -> dict[str, NodeSize]:
        raise AssertionError("no simulated unit is slow")

    def is_alive(self, node: str) -> bool:
        return True

    def close(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Figures:
    """Resources that one run of the driver used.

    Attributes:
        cpu_seconds: CPU seconds of the controller, including views.
        plan_seconds: CPU seconds of making the plan, which are not part of `cpu_seconds`.
        requests, writes: requests to the store, and those of them that wrote the status.
        asked, polls: number of times that the executor was asked for its capacity, and for units that have ended.
        minutes: the run's duration by the executor's clock.
        memory: growth of the resident set in bytes, including the plan.
    """

    units: int
    cpu_seconds: float
    plan_seconds: float
    requests: int
    writes: int
    asked: int
    polls: int
    most_at_once: int
    minutes: float
    memory: int = 0


def simulate(size: int, terminal: bool, folder: str) -> Figures:
    """Run the units of an experiment that the folder's store lacks."""
    started = time.process_time()
    units = make_units(size)
    planned = time.process_time()
    store, executor = CountingStore(folder), SimulatedExecutor(Store(folder))
    with open(os.devnull, "w") as sink:
        console = Console(file=sink, force_terminal=terminal, width=120)
        run = RunUnits.of("scale", ((unit.kind, unit.id) for unit in units)).run
        status = StatusWriter(store, "scale", run)
        state = RunState([LiveView(console) if terminal else PlainView(console), status], executor.clock)
        result = Controller(units, store, lambda: executor, state, clock=RunClock(executor.clock)).run()
        status.ended_as = "done"
        state.end()
    seconds = time.process_time() - planned - executor.aside
    assert len(result.ran) + len(result.found) == len(units)
    counts = store.requests, store.writes, executor.asked, executor.polls, executor.most_at_once
    return Figures(len(units), seconds, planned - started, *counts, minutes=executor.now / 60)


def measure(size: int, terminal: bool, folder: str) -> Figures:
    """`simulate`, with a measurement of its memory; to be called in a new process."""
    with tempfile.TemporaryDirectory() as small:
        simulate(100, terminal, small)
    figures, memory = peak_memory(lambda: simulate(size, terminal, folder))
    return replace(figures, memory=memory)


def measure_all(sizes: tuple[int, ...]) -> Iterator[tuple[str, Figures]]:
    """(name, figures) of each size: with lines and with a live table as view, and once more when all units are done."""
    for size in sizes:
        for what, terminal in (("lines", False), ("live table", True)):
            with tempfile.TemporaryDirectory() as folder:
                for name in (what, "again, all done") if what == "lines" else (what,):
                    with FreshProcess() as process:
                        yield name, process.run(measure, size, terminal, folder)


def print_figures(results: list[tuple[str, Figures]]) -> None:
    headings = "ms per unit", "MiB / 1,000", "requests per unit", "writes", "polls", "asked", "at once", "minutes", "plan, s"
    table = Table("view", "units", *headings)
    for view, figures in results:
        per_unit = (
            f"{1000 * figures.cpu_seconds / figures.units:.3f}",
            f"{figures.memory / MIB / figures.units * 1000:.2f}",
            f"{figures.requests / figures.units:.4f}",
        )
        counts = figures.writes, figures.polls, figures.asked, figures.most_at_once
        times = f"{figures.minutes:.1f}", f"{figures.plan_seconds:.2f}"
        table.add_row(view, f"{figures.units:,}", *per_unit, *map(str, counts), *times)
    Console(width=128).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="The driver with thousands of units.")
    parser.add_argument("--quick", action="store_true", help="the smaller size only")
    arguments = parser.parse_args()
    results = list(measure_all(SIZES[:1] if arguments.quick else SIZES))
    print_figures(results)
    with_lines = [figures for view, figures in results if view == "lines"]
    first, last = with_lines[0], with_lines[-1]
    cost = {figures: 1000 * figures.cpu_seconds / figures.units for figures in (first, last)}
    print_json(
        {
            "ms_per_unit": round(cost[last], 3),
            "driver_mib_per_1000_units": round(last.memory / MIB / last.units * 1000, 2),
            "requests_per_unit": round(last.requests / last.units, 4),
            "ms_growth": round(cost[last] / cost[first], 2),
        }
    )


if __name__ == "__main__":
    main()
