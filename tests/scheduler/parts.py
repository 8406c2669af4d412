"""An executor without behaviour and the parts of the scheduler around it, for unit tests of single parts."""

from dataclasses import dataclass, field

from vldd_dist.events import RunEvent, UnitReported
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.scheduler.attempt_ends import AttemptEnds
from vldd_dist.scheduler.dependencies import Dependencies
from vldd_dist.scheduler.executor import Capacity, NodeSize
from vldd_dist.scheduler.failures.failure_policy import RetryBudget
from vldd_dist.scheduler.failures.retries import Retries
from vldd_dist.scheduler.node_avoidance import NodeAvoidance
from vldd_dist.scheduler.result import RunResult
from vldd_dist.scheduler.running import RunningUnits
from vldd_dist.scheduler.submitting.admission import Admission
from vldd_dist.scheduler.submitting.ready_queue import ReadyQueue
from vldd_dist.scheduler.submitting.submission import Submission


@dataclass
class PassiveExecutor:
    """Records the calls that it gets.

    Attributes:
        already_ended: unit id -> outcome that `stop` finds.
        by_node: the nodes and their sizes.
    """

    given: Capacity
    asked: int = 0
    submitted: list[UnitOrder] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    already_ended: dict[str, Outcome] = field(default_factory=dict)
    by_node: dict[str, NodeSize] = field(default_factory=dict)

    def capacity(self) -> Capacity:
        self.asked += 1
        return self.given

    def submit(self, order: UnitOrder) -> None:
        self.submitted.append(order)

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        return []

    def stop(self, unit_id: str) -> Outcome | None:
        self.stopped.append(unit_id)
        return self.already_ended.get(unit_id)

    def reports(self) -> list[UnitReported]:
        return []

    def nodes(self) -> dict[str, NodeSize]:
        return self.by_node

    def is_alive(self, node: str) -> bool:
        return True

    def close(self) -> None:
        """Does nothing, because nothing runs."""


class Parts:
    """The parts of the scheduler, connected as in the controller; `now` is the time of their clock."""

    def __init__(self, units: list[WorkUnit], capacity: Capacity, max_running: int | None = None) -> None:
        self.now = 0.0
        self.executor = PassiveExecutor(capacity)
        self.events: list[RunEvent] = []
        self.units = {unit.id: unit for unit in units}
        self.ready, self.admission, self.running = ReadyQueue(), Admission(max_running), RunningUnits(lambda: self.now)
        self.avoidance = NodeAvoidance()
        budget = RetryBudget(lost=1, crashed=0, killed=1, pauses=(5.0,))
        self.retries = Retries(budget, lambda: self.now, self.executor.is_alive, self.avoidance)
        self.submission = Submission(
            self.executor,
            self.ready,
            self.admission,
            self.running,
            self.avoidance,
            self.events.append,
            lambda: self.now,
        )
        self.dependencies, self.result = Dependencies(), RunResult()
        self.ends = AttemptEnds(
            self.units,
            self.dependencies,
            self.retries,
            self.submission,
            self.make_ready,
            self.events.append,
            self.result,
        )

    def make_ready(self, unit: WorkUnit) -> None:
        self.ready.add(unit, list(self.units).index(unit.id))

    def submit(self, *units: WorkUnit) -> None:
        """Submit these units and start them."""
        for unit in units:
            self.make_ready(unit)
        self.submission.submit_ready()
        assert {unit.id for unit in units} <= self.admission.submitted

    @property
    def submitted(self) -> list[str]:
        return [order.label for order in self.executor.submitted]

    def of(self, kind: type) -> list[RunEvent]:
        """The events of this class."""
        return [event for event in self.events if isinstance(event, kind)]
