"""An executor that follows a script, for tests of the controller."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from vldd_dist.artifacts.keys import ManifestKey, prefix_of
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.base import Resources
from vldd_dist.events import RunEvent, UnitReported
from vldd_dist.monitoring.live.descriptions import describe_event
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.pipeline.outcome import DONE, Outcome
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Capacity, NodeSize
from vldd_dist.scheduler.failures.failure_policy import RetryBudget
from vldd_dist.scheduler.limits import RunClock, RunLimits
from vldd_dist.scheduler.result import RunResult
from vldd_dist.store.store import Store

LOST, CRASHED, REFUSED = Outcome("lost", "node died", 1), Outcome("crashed", "bug", 1), Outcome("refused", "bad jpeg", 4)
TWO_CPUS, SMALL_BUDGET = Capacity(2, 0), RetryBudget(lost=3, crashed=1)


class ScriptedExecutor:
    """Each `wait` ends the unit that was submitted first, with the next outcome of its script or, without one, as done. Units
    that are done leave a manifest, as real ones do. The clock `now` advances by `poll_seconds` in `wait` and by a second in
    `sleep`.

    Args:
        script: label of a unit -> outcomes of its attempts.
        capacity: function from the time to the capacity.
        first: labels of units that end before all other running units.
    """

    def __init__(
        self,
        store: Store,
        script: dict[str, list[Outcome]],
        capacity: Callable[[float], Capacity],
        first: Iterable[str] = (),
    ) -> None:
        self.store, self.script, self.capacity_at, self.first = store, script, capacity, list(first)
        self.running: list[UnitOrder] = []
        self.submitted: list[str] = []
        self.ended: list[str] = []
        self.asked: list[float] = []
        self.now, self.poll_seconds = 0.0, 1.0
        self.most_at_once = 0
        self.closed = False
        # Ids of nodes that died.
        self.dead: set[str] = set()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 1

    def capacity(self) -> Capacity:
        self.asked.append(self.now)
        return self.capacity_at(self.now)

    def submit(self, order: UnitOrder) -> None:
        for kind, unit_id in order.inputs.values():
            assert is_done(self.store, kind, unit_id), "submitted before its inputs were done"
        self.running.append(order)
        self.submitted.append(order.label)
        self.most_at_once = max(self.most_at_once, len(self.running))

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        if not self.running:
            return []
        self.now += self.poll_seconds
        order = next((order for label in self.first for order in self.running if order.label == label), self.running[0])
        self.running.remove(order)
        self.ended.append(order.label)
        outcome = self.script[order.label].pop(0) if self.script.get(order.label) else DONE
        if outcome is DONE:
            self.store.create(ManifestKey(prefix_of(order.kind, order.id)).key, b"{}")
        return [(order.id, outcome)]

    def reports(self) -> list[UnitReported]:
        return []

    def stop(self, unit_id: str) -> None:
        self.running = [order for order in self.running if order.id != unit_id]

    def nodes(self) -> dict[str, NodeSize]:
        return {}

    def is_alive(self, node: str) -> bool:
        return node not in self.dead

    def close(self) -> None:
        self.closed = True


class Notices(View):
    """A view that records all events, and the texts that a person should read."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.events: list[RunEvent] = []

    def event(self, event: RunEvent, state: RunState) -> None:
        self.events.append(event)
        if (message := describe_event(event, state)) and message.important:
            self.notices.append(message.text)


def make(label: str, *inputs: WorkUnit, kind: str = "expert", cpus: float = 1, gpus: float = 0, workers: int = 1) -> WorkUnit:
    # Without the bounds of a description, since the scheduler accepts any amount.
    resources = Resources.model_construct(cpus=cpus, gpus=gpus)
    named = {unit.label: unit for unit in inputs}
    return WorkUnit(kind, {"index": label}, named, resources=resources, label=label, workers=workers)


def graph() -> dict[str, WorkUnit]:
    data = WorkUnit("dataset", {}, label="data")
    experts = [WorkUnit("expert", {"index": i}, {"dataset": data}, label=f"expert {i}") for i in range(3)]
    runs = [WorkUnit("distillation", {"pairs": m}, {"e": experts[0]}, label=f"run {m}") for m in (10, 20)]
    judged = [WorkUnit("evaluation", {}, {"pairs": run}, label=f"evaluation of {run.label}") for run in runs]
    return {unit.label: unit for unit in [data, *experts, *runs, *judged]}


def run(
    units: Iterable[WorkUnit],
    store: Store,
    script: dict[str, list[Outcome]] | None = None,
    capacity: Capacity | Callable[[float], Capacity] = TWO_CPUS,
    first: Iterable[str] = (),
    budget: RetryBudget = SMALL_BUDGET,
    max_running: int | None = None,
    view: View | None = None,
) -> tuple[RunResult, ScriptedExecutor]:
    capacity_at = capacity if callable(capacity) else lambda now: capacity
    executor = ScriptedExecutor(store, defaultdict(list, script or {}), capacity_at, first)
    controller = Controller(
        list(units),
        store,
        lambda: executor,
        RunState([view] if view else [], executor.clock),
        RunLimits(budget, max_running),
        clock=RunClock(executor.clock, executor.sleep),
    )
    try:
        return controller.run(), executor
    finally:
        assert executor.closed or not executor.asked
