"""On which nodes an attempt may run, and how often its task is declared to Ray."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.label_utils import validate_label_selector

from vldd_dist.pipeline.work_unit import NO_NODES, AvoidedNodes, UnitOrder
from vldd_dist.ray_backend import executor as executor_module
from vldd_dist.ray_backend.executor import RayExecutor
from vldd_dist.ray_backend.workers import attempts
from vldd_dist.ray_backend.workers.attempts import GroupAttempt, TaskAttempt
from vldd_dist.ray_backend.workers.placement import with_room_elsewhere
from vldd_dist.scheduler.executor import NodeSize
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import make

# What Ray says about a node that was lost.
DEAD = {"NodeID": "n0", "Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}


def nothing_sent(rank: int) -> None:
    """No process has sent an outcome."""


def not_on(nodes: str) -> dict[str, str]:
    return {"ray.io/node-id": f"!in({nodes})"}


class RecordedRay:
    """In place of Ray: records the declarations of tasks and actors, the options of calls, and placement groups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *gpus: float) -> None:
        """Nodes n1, n2, ... with 16 CPUs and so many GPUs each."""
        self.declared: list[tuple[dict[str, Any], object]] = []
        self.called_with: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        nodes = [{"NodeID": f"n{n}", "Alive": True, "Resources": {"CPU": 16.0, "GPU": has}} for n, has in enumerate(gpus, 1)]
        monkeypatch.setattr(attempts.ray, "nodes", lambda: [DEAD, *nodes])
        monkeypatch.setattr(attempts.ray, "remote", self.remote)
        monkeypatch.setattr(attempts, "placement_group", lambda bundles, **options: self.groups.append(options))
        monkeypatch.setattr(attempts, "PlacementGroupSchedulingStrategy", lambda group, placement_group_bundle_index: None)
        for declaration in (attempts._task, attempts._actor):
            declaration.cache_clear()

    def remote(self, **options: object) -> Any:
        def declare(function: object) -> Any:
            self.declared.append((options, function))
            return self.Called(self.called_with)

        return declare

    class Called:
        """A declared task or actor, the handle of an actor, or one of its methods."""

        def __init__(self, called_with: list[dict[str, Any]]) -> None:
            self.called_with = called_with

        def options(self, **options: object) -> Any:
            self.called_with.append(options)
            return self

        def remote(self, *arguments: object) -> Any:
            return self

        def __getattr__(self, name: str) -> Any:
            return self


@pytest.fixture(autouse=True)
def _declare_anew() -> Iterator[None]:
    """What was declared to a recorded Ray is not used with a real one."""
    yield
    for declaration in (attempts._task, attempts._actor):
        declaration.cache_clear()


def order(avoid: AvoidedNodes = NO_NODES, gpus: float = 1, workers: int = 1) -> UnitOrder:
    return make("unit", gpus=gpus, workers=workers).order(avoid)


@pytest.mark.parametrize(
    ("avoid", "options"),
    [
        (NO_NODES, {}),
        (AvoidedNodes(("n1",)), {"label_selector": not_on("n1")}),
        (AvoidedNodes(("n2", "n1")), {"label_selector": not_on("n1,n2")}),
        # Ray uses the fallback as soon as the other nodes are busy, and a broken node never is.
        (AvoidedNodes((), "n1"), {"label_selector": not_on("n1"), "fallback_strategy": [{"label_selector": {}}]}),
        (
            AvoidedNodes(("n2",), "n1"),
            {"label_selector": not_on("n1,n2"), "fallback_strategy": [{"label_selector": not_on("n2")}]},
        ),
    ],
    ids=str,
)
def test_a_task_never_runs_on_nodes_avoided_strictly_and_on_a_slow_one_only_if_others_are_busy(
    avoid: AvoidedNodes, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = RecordedRay(monkeypatch)
    TaskAttempt(order(avoid), Store("memory://x"), None, nothing_sent)  # type: ignore[arg-type]
    assert ray.called_with == [{"name": "unit", **options}]
    for selector in (options, *options.get("fallback_strategy", [])):
        assert validate_label_selector(selector.get("label_selector")) is None


@pytest.mark.parametrize(
    ("broke_it", "unit", "gpus", "remaining"),
    [
        (["n1"], {}, (8, 8), ["n1"]),
        (["n1"], {}, (8,), []),
        (["n1"], {"gpus": 2}, (8, 1, 1), []),
        (["n1"], {"gpus": 0.1}, (8, 0.1), ["n1"]),
        (["n1"], {"gpus": 0}, (8, 0), ["n1"]),
        (["n1"], {"workers": 4}, (4, 4), ["n1"]),
        (["n1"], {"workers": 4}, (4, 2, 2), ["n1"]),
        (["n1"], {"workers": 4}, (4,), []),
        (["n1"], {"workers": 4}, (4, 3), []),
        (["n1"], {"workers": 4}, (8, 0), []),
        (["n2", "n1"], {}, (8, 8, 8), ["n2", "n1"]),
        # The earliest may have recovered.
        (["n2", "n1"], {}, (8, 8), ["n1"]),
        (["n2", "n1"], {"workers": 4}, (4, 2, 2), ["n1"]),
    ],
    ids=str,
)
def test_the_nodes_that_broke_a_unit_are_avoided_while_the_others_are_large_enough(
    broke_it: list[str], unit: dict[str, Any], gpus: tuple[float, ...], remaining: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {f"n{number}": NodeSize(16, has) for number, has in enumerate(gpus, 1)}
    avoid = AvoidedNodes(tuple(broke_it), "n3")
    assert with_room_elsewhere(order(avoid, **unit), lambda: nodes).avoid == AvoidedNodes(tuple(remaining), "n3")


@pytest.mark.parametrize(
    ("avoid", "selector"),
    [(AvoidedNodes(("n1", "n2")), not_on("n1,n2")), (AvoidedNodes((), "n1"), None), (NO_NODES, None)],
    ids=str,
)
def test_a_group_keeps_away_from_the_nodes_that_broke_it(
    avoid: AvoidedNodes, selector: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = RecordedRay(monkeypatch)
    GroupAttempt(order(avoid, workers=4), Store("memory://x"), None, nothing_sent)  # type: ignore[arg-type]
    assert ray.groups == [{"strategy": "PACK", "bundle_label_selector": selector and [selector] * 4}]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_unit_goes_back_to_a_node_that_broke_it_when_the_others_leave(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would keep it in its queue for as long as the node that it must avoid is the only one."""
    RecordedRay(monkeypatch, 4, 4)
    queue = SimpleNamespace(qsize=lambda: 0, get_nowait_batch=lambda size: [])
    monkeypatch.setattr(executor_module.ray, "wait", lambda references, **options: ([], references))
    monkeypatch.setattr(executor_module.ray, "cancel", lambda reference, force: None)
    monkeypatch.setattr(executor_module.ray, "kill", lambda actor: None)
    monkeypatch.setattr(attempts, "remove_placement_group", lambda group: None)
    monkeypatch.setattr(executor_module, "NODES_SECONDS", 0)
    monkeypatch.setattr(executor_module, "NODES_AGE_SECONDS", 0)
    executor = RayExecutor(Store("memory://x"), True, make_queue=lambda: queue)
    restricted = order(AvoidedNodes(("n1",)), workers=workers)
    executor.submit(restricted)
    assert executor.wait(1) == []
    assert executor.running[restricted.id].order.avoid.strictly == ("n1",)
    RecordedRay(monkeypatch, 4)
    ((unit_id, outcome),) = executor.wait(1)
    assert (unit_id, outcome.status, executor.running) == (restricted.id, "lost", {})
    executor.submit(restricted)
    assert executor.running[restricted.id].order.avoid.strictly == ()
    assert executor.wait(1) == []


def test_ray_is_asked_for_its_nodes_once_and_not_for_each_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    RecordedRay(monkeypatch, 4, 4)
    nodes, asked = executor_module.ray.nodes(), list[str]()
    monkeypatch.setattr(executor_module.ray, "nodes", lambda: asked.append("nodes") or nodes)
    executor = RayExecutor(Store("memory://x"), True, make_queue=lambda: None)
    for number in range(100):
        executor.running[str(number)] = SimpleNamespace(order=order(AvoidedNodes(("n1",))))  # type: ignore[assignment]
    assert executor._stop_without_room() == []
    assert executor.nodes() == {"n1": NodeSize(16, 4), "n2": NodeSize(16, 4)}
    assert (executor.is_alive("n1"), executor.is_alive(DEAD["NodeID"]), asked) == (True, False, ["nodes"])


def test_units_with_equal_resources_share_a_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps each until the job ends."""
    ray, store = RecordedRay(monkeypatch, 8), Store("memory://x")
    for gpus in (1, 1, 0.5, 1):
        TaskAttempt(order(gpus=gpus), store, None, nothing_sent)  # type: ignore[arg-type]
    for _ in range(2):
        GroupAttempt(order(workers=3), store, None, nothing_sent)  # type: ignore[arg-type]
    assert [options.get("num_gpus") for options, _ in ray.declared] == [1, 0.5, None]
