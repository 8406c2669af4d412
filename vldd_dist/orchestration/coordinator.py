"""The coordinator: runs what is missing, in the order of the graph, as many units at once as the resources allow.

It keeps no state: the store says what is done, so it can be killed at any time and the same command goes on.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from vldd_dist.errors import ConfigError
from vldd_dist.orchestration.executor import Executor
from vldd_dist.orchestration.outcomes import Outcome, RetryBudget, may_retry
from vldd_dist.orchestration.progress import ProgressBoard
from vldd_dist.orchestration.units import WorkUnit
from vldd_dist.storage.store import Store

POLL_SECONDS = 0.25

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


@dataclass
class RunResult:
    """What became of the units.

    Attributes:
        ran: units done by this call.
        found: units that were done before.
        failed: units that ended for good without output, with the cause.
        blocked: units that need a failed one.
    """

    ran: list[WorkUnit] = field(default_factory=list)
    found: list[WorkUnit] = field(default_factory=list)
    failed: list[tuple[WorkUnit, Outcome]] = field(default_factory=list)
    blocked: list[WorkUnit] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return self.failed[0][1].exit_code if self.failed else 0


def done_units(store: Store, units: list[WorkUnit]) -> set[str]:
    """Ids of the units whose manifest is in the store; one listing, whatever their number."""
    marks = {key for key in store.list("units") if key.endswith("/manifest.json")}
    return {unit.id for unit in units if f"units/{unit.kind}/{unit.id}/manifest.json" in marks}


class Coordinator:
    """Args:
    units: every unit of the plan, inputs first.
    make_executor: called only when something is missing, for starting Ray takes seconds.
    should_stop: asked several times a second; true ends the run as Ctrl-C does.
    """

    def __init__(
        self,
        units: list[WorkUnit],
        store: Store,
        make_executor: Callable[[], Executor],
        board: ProgressBoard,
        budget: RetryBudget | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.units = {unit.id: unit for unit in units}
        self.store, self.make_executor, self.board = store, make_executor, board
        self.budget = budget or RetryBudget()
        self.should_stop = should_stop
        self.result = RunResult()
        self.attempts: dict[str, list[Outcome]] = defaultdict(list)

    def run(self) -> RunResult:
        """Run all missing units; a failed one stops only those that need it.

        Raises:
            ConfigError: a unit asks for more than the machine has.
            KeyboardInterrupt: after everything running was ended; the store holds what was committed.
        """
        done = done_units(self.store, list(self.units.values()))
        self.result.found = [unit for unit in self.units.values() if unit.id in done]
        waiting = {
            unit.id: {needed.id for needed in unit.inputs.values()} - done
            for unit in self.units.values()
            if unit.id not in done
        }
        self.board.begin(list(self.units.values()), done)
        if not waiting:
            return self.result
        executor = self.make_executor()
        try:
            self._loop(executor, waiting)
        finally:
            executor.close()
        return self.result

    def _loop(self, executor: Executor, waiting: dict[str, set[str]]) -> None:
        running: set[str] = set()
        while waiting or running:
            if self.should_stop():
                raise KeyboardInterrupt
            self._submit_ready(executor, waiting, running)
            for unit_id, outcome in executor.wait(POLL_SECONDS):
                running.discard(unit_id)
                self._settle(self.units[unit_id], outcome, waiting)
            for unit_id, event in executor.events():
                self.board.event(unit_id, event)
            self.board.refresh()

    def _submit_ready(self, executor: Executor, waiting: dict[str, set[str]], running: set[str]) -> None:
        capacity = executor.capacity()
        free_cpus = capacity.cpus - sum(self.units[unit_id].cpus for unit_id in running)
        free_gpus = capacity.gpus - sum(self.units[unit_id].gpus for unit_id in running)
        self.board.capacity = capacity.cpus
        ready = [self.units[unit_id] for unit_id, needed in waiting.items() if not needed]
        for unit in sorted(ready, key=lambda unit: PRIORITY.index(unit.kind)):
            if not running and (unit.cpus > capacity.cpus or unit.gpus > capacity.gpus):
                raise ConfigError(
                    f"{unit.label} asks for {unit.cpus:g} CPUs and {unit.gpus:g} GPUs, the machines have "
                    f"{capacity.cpus:g} and {capacity.gpus:g}: lower its resources or workers, or add machines"
                )
            if unit.cpus <= free_cpus and unit.gpus <= free_gpus:
                free_cpus, free_gpus = free_cpus - unit.cpus, free_gpus - unit.gpus
                del waiting[unit.id]
                running.add(unit.id)
                self.board.started(unit)
                executor.submit(unit.order())

    def _settle(self, unit: WorkUnit, outcome: Outcome, waiting: dict[str, set[str]]) -> None:
        if outcome.status == "done":
            self.result.ran.append(unit)
            self.board.finished(unit)
            for needed in waiting.values():
                needed.discard(unit.id)
        elif may_retry(outcome, self.attempts[unit.id], self.budget):
            self.attempts[unit.id].append(outcome)
            waiting[unit.id] = set()
            self.board.retried(unit, outcome.cause)
        else:
            self.result.failed.append((unit, outcome))
            self.board.failed(unit, outcome.cause)
            self._block_users_of(unit, waiting)

    def _block_users_of(self, unit: WorkUnit, waiting: dict[str, set[str]]) -> None:
        for user_id in [user_id for user_id, needed in waiting.items() if unit.id in needed]:
            if user_id in waiting:
                del waiting[user_id]
                user = self.units[user_id]
                self.result.blocked.append(user)
                self.board.blocked(user)
                self._block_users_of(user, waiting)
