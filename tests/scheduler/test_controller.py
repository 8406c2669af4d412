"""The controller with an executor that follows a script: order, retries, blocking."""

import json

import pytest

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.failures.failure_policy import RetryBudget, may_retry
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import CRASHED, LOST, REFUSED, graph, make, run


def test_everything_runs_once_in_order_within_capacity(store: Store) -> None:
    units = graph()
    result, executor = run(units.values(), store)
    assert sorted(executor.submitted) == sorted(units)
    assert executor.most_at_once == 2
    assert executor.closed
    assert result.exit_code == 0
    again, idle = run(units.values(), store)
    assert idle.submitted == []
    assert len(again.found) == len(units)


def test_long_kinds_first_then_the_order_of_the_plan(store: Store) -> None:
    kinds = ("publication", "evaluation", "coreset", "features", "distillation", "expert", "expert", "dataset")
    units = [make(f"{kind} {place}", kind=kind) for place, kind in enumerate(kinds)]
    _, executor = run(units, store, capacity=Capacity(1, 0))
    assert executor.submitted == [
        *("dataset 7", "expert 5", "expert 6", "distillation 4", "features 3", "coreset 2", "evaluation 1", "publication 0")
    ]


def test_lost_workers_are_retried_and_do_not_spend_the_budget_of_errors(store: Store) -> None:
    result, executor = run(graph().values(), store, {"expert 1": [LOST, LOST, CRASHED, LOST]})
    assert result.failed == []
    assert executor.submitted.count("expert 1") == 5


def test_machines_may_be_lost_often_and_programs_fail_twice(store: Store) -> None:
    unlucky, broken, refused = make("unlucky"), make("broken"), make("refused")
    script = {"unlucky": [LOST] * 20, "broken": [CRASHED] * 9, "refused": [REFUSED] * 9}
    result, executor = run([unlucky, broken, refused], store, script, budget=RetryBudget())
    assert [executor.submitted.count(label) for label in ("unlucky", "broken", "refused")] == [21, 2, 1]
    assert [unit.label for unit in result.ran] == ["unlucky"]
    assert {unit.label for unit, _ in result.failed} == {"broken", "refused"}
    unluckier = make("unluckier")
    result, executor = run([unluckier], store, {"unluckier": [LOST] * 21}, budget=RetryBudget())
    ((unit, outcome),) = result.failed
    assert (unit, outcome.status) == (unluckier, "lost")
    assert outcome.cause == (
        "node died; its machine was lost 21 times without a new checkpoint in between; run the same command again to go on"
    )
    assert executor.submitted.count("unluckier") == 21


def test_a_unit_that_is_tried_again_takes_its_old_place(store: Store) -> None:
    _, executor = run([make("a"), make("b"), make("c")], store, {"a": [LOST]}, Capacity(1, 0))
    assert executor.submitted == ["a", "a", "b", "c"]


def test_a_failed_unit_blocks_only_units_that_need_it(store: Store) -> None:
    result, executor = run(graph().values(), store, {"run 10": [CRASHED, CRASHED]})
    assert [(unit.label, outcome.cause) for unit, outcome in result.failed] == [("run 10", "bug")]
    assert [unit.label for unit in result.blocked] == ["evaluation of run 10"]
    assert result.not_run == "1 unit was not run, because it needs the output of a failed unit"
    assert "evaluation of run 20" in executor.submitted


def diamond() -> list[WorkUnit]:
    top = make("top", kind="dataset")
    left, right = make("left", top), make("right", top)
    bottom = make("bottom", left, right, kind="distillation")
    return [top, left, right, bottom, make("below", bottom, left, kind="evaluation"), make("beside", right, kind="evaluation")]


@pytest.mark.parametrize("first", ["left", "right"])
def test_a_unit_is_blocked_by_one_input_whatever_becomes_of_the_other(store: Store, first: str) -> None:
    """The unit's other input is done before, or is still running."""
    result, executor = run(diamond(), store, {"left": [REFUSED]}, first=[first])
    assert executor.ended[1] == first
    assert [unit.label for unit in result.blocked] == ["bottom", "below"]
    assert sorted(unit.label for unit in result.ran) == ["beside", "right", "top"]


def test_a_unit_with_two_failed_inputs_is_blocked_once(store: Store) -> None:
    result, _ = run(diamond(), store, {"left": [REFUSED], "right": [REFUSED]})
    assert [unit.label for unit, _ in result.failed] == ["left", "right"]
    assert sorted(unit.label for unit in result.blocked) == ["below", "beside", "bottom"]


def test_bad_input_is_not_tried_again_and_gives_its_exit_code(store: Store) -> None:
    result, executor = run(graph().values(), store, {"data": [REFUSED]})
    assert executor.submitted == ["data"]
    assert result.exit_code == 4
    assert len(result.blocked) == 7
    assert result.not_run == "7 units were not run, because they need the output of a failed unit"


def test_retry_budgets_are_counted_by_kind_of_failure() -> None:
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


def test_a_unit_that_another_run_is_computing_is_computed_too(store: Store) -> None:
    """Only what is committed counts: the attempt that stored this checkpoint may have died."""
    unit = make("expert 0")
    store.write(f"units/expert/{unit.id}/checkpoints/00000003-deadbeef.json", b"{}")
    assert run([unit], store)[1].submitted == ["expert 0"]
