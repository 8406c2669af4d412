"""The coordinator against an executor that follows a script: order, retries, blocking, capacity."""

import json
from collections import defaultdict

import pytest
from rich.console import Console

from vldd_dist.errors import ConfigError
from vldd_dist.orchestration.coordinator import Coordinator, RunResult
from vldd_dist.orchestration.executor import Capacity, Event
from vldd_dist.orchestration.outcomes import DONE, Outcome, RetryBudget, may_retry
from vldd_dist.orchestration.progress import PlainView, ProgressBoard
from vldd_dist.orchestration.units import UnitOrder, WorkUnit
from vldd_dist.settings import Resources
from vldd_dist.storage.store import Store

LOST, CRASHED, REFUSED = Outcome("lost", "node died", 1), Outcome("crashed", "bug", 1), Outcome("refused", "bad jpeg", 4)


class ScriptedExecutor:
    """Ends each unit by the script of its label; units that are done leave a manifest mark, as real ones do."""

    def __init__(self, store: Store, script: dict[str, list[Outcome]], cpus: float = 2.0) -> None:
        self.store, self.script, self.cpus = store, script, cpus
        self.running: list[UnitOrder] = []
        self.submitted: list[str] = []
        self.most_at_once = 0
        self.closed = False

    def capacity(self) -> Capacity:
        return Capacity(self.cpus, 0)

    def submit(self, order: UnitOrder) -> None:
        for kind, unit_id in order.inputs.values():
            assert self.store.exists(f"units/{kind}/{unit_id}/manifest.json"), "submitted before its inputs were done"
        self.running.append(order)
        self.submitted.append(order.label)
        self.most_at_once = max(self.most_at_once, len(self.running))

    def wait(self, timeout_seconds: float) -> list[tuple[str, Outcome]]:
        order = self.running.pop(0)
        outcome = self.script[order.label].pop(0) if self.script.get(order.label) else DONE
        if outcome is DONE:
            self.store.create(f"units/{order.kind}/{order.id}/manifest.json", b"{}")
        return [(order.id, outcome)]

    def events(self) -> list[Event]:
        return []

    def close(self) -> None:
        self.closed = True


def graph() -> dict[str, WorkUnit]:
    data = WorkUnit("dataset", {}, label="data")
    experts = [WorkUnit("expert", {"index": i}, {"dataset": data}, label=f"expert {i}") for i in range(3)]
    runs = [WorkUnit("distillation", {"pairs": m}, {"e": experts[0]}, label=f"run {m}") for m in (10, 20)]
    judged = [WorkUnit("evaluation", {}, {"pairs": run}, label=f"evaluation of {run.label}") for run in runs]
    return {unit.label: unit for unit in [data, *experts, *runs, *judged]}


def run(
    units: dict[str, WorkUnit], store: Store, script: dict[str, list[Outcome]] | None = None, cpus: float = 2.0
) -> tuple[RunResult, ScriptedExecutor]:
    executor = ScriptedExecutor(store, defaultdict(list, script or {}), cpus)
    board = ProgressBoard(PlainView(Console(quiet=True)))
    return Coordinator(list(units.values()), store, lambda: executor, board, RetryBudget(lost=3, crashed=1)).run(), executor


@pytest.fixture
def store(tmp_path) -> Store:  # type: ignore[no-untyped-def]
    return Store(str(tmp_path))


def test_everything_runs_once_in_order_within_capacity(store: Store) -> None:
    units = graph()
    result, executor = run(units, store)
    assert sorted(executor.submitted) == sorted(units)
    assert executor.most_at_once == 2
    assert executor.closed
    assert result.exit_code == 0
    again, idle = run(units, store)
    assert idle.submitted == []
    assert len(again.found) == len(units)


def test_lost_workers_are_retried_and_do_not_spend_the_budget_of_errors(store: Store) -> None:
    result, executor = run(graph(), store, {"expert 1": [LOST, LOST, CRASHED, LOST]})
    assert result.failed == []
    assert executor.submitted.count("expert 1") == 5


def test_a_failed_unit_blocks_its_users_only(store: Store) -> None:
    result, executor = run(graph(), store, {"run 10": [CRASHED, CRASHED]})
    assert [(unit.label, outcome.cause) for unit, outcome in result.failed] == [("run 10", "bug")]
    assert [unit.label for unit in result.blocked] == ["evaluation of run 10"]
    assert "evaluation of run 20" in executor.submitted


def test_bad_input_is_not_tried_again_and_gives_its_exit_code(store: Store) -> None:
    result, executor = run(graph(), store, {"data": [REFUSED]})
    assert executor.submitted == ["data"]
    assert result.exit_code == 4
    assert len(result.blocked) == 7


def test_more_than_the_machine_has_is_refused(store: Store) -> None:
    units = {"big": WorkUnit("dataset", {}, label="big", resources=Resources(cpus=1, gpus=1))}
    with pytest.raises(ConfigError, match="big asks for 1 CPUs and 1 GPUs, the machines have 2 and 0"):
        run(units, store)


def test_budgets() -> None:
    budget = RetryBudget(lost=2, crashed=1)
    assert may_retry(LOST, [LOST, CRASHED], budget)
    assert not may_retry(LOST, [LOST, LOST], budget)
    assert not may_retry(CRASHED, [CRASHED], budget)
    assert not may_retry(REFUSED, [], budget)


def test_identity_depends_on_spec_and_inputs_not_on_execution() -> None:
    data = WorkUnit("dataset", {"n": 1}, label="data")
    assert WorkUnit("dataset", {"n": 1}, execution={"readers": 4}, label="x").id == data.id
    assert WorkUnit("dataset", {"n": 2}).id != data.id
    other = WorkUnit("expert", {}, {"dataset": WorkUnit("dataset", {"n": 2})})
    assert WorkUnit("expert", {}, {"dataset": data}).id != other.id
    assert json.dumps(other.order().inputs)
