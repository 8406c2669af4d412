"""On which nodes an attempt may run, and how often its task is declared to Ray."""

from collections.abc import Iterator
from typing import Any

import pytest

from vldd_dist.pipeline.work_unit import AvoidedNode, UnitOrder
from vldd_dist.ray_backend.workers import attempts
from vldd_dist.ray_backend.workers.attempts import GroupAttempt, TaskAttempt
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import make

NOT_N1 = {"ray.io/node-id": "!n1"}
# What Ray says about a node that was lost.
DEAD = {"NodeID": "n0", "Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}


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


def order(avoid: AvoidedNode | None, gpus: float = 1, workers: int = 1) -> UnitOrder:
    return make("unit", gpus=gpus, workers=workers).order(avoid)


def options_of_task(monkeypatch: pytest.MonkeyPatch, ordered: UnitOrder, *gpus: float) -> dict[str, Any]:
    ray = RecordedRay(monkeypatch, *gpus)
    TaskAttempt(ordered, Store("memory://x"), None)  # type: ignore[arg-type]
    (options,) = ray.called_with
    assert options.pop("name") == "unit"
    return options


def test_a_task_keeps_away_from_a_broken_node_while_another_is_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, slow = AvoidedNode("n1", strictly=True), AvoidedNode("n1")
    assert options_of_task(monkeypatch, order(None), 8, 8) == {}
    # Ray uses the fallback as soon as the other nodes are busy, and a broken node never is.
    soft = {"label_selector": NOT_N1, "fallback_strategy": [{"label_selector": {}}]}
    assert options_of_task(monkeypatch, order(slow), 8, 8) == soft
    assert options_of_task(monkeypatch, order(broken), 8, 8) == {"label_selector": NOT_N1}
    assert options_of_task(monkeypatch, order(broken), 8) == {}
    assert options_of_task(monkeypatch, order(broken, gpus=2), 8, 1, 1) == {}
    assert options_of_task(monkeypatch, order(broken, gpus=0.1), 8, 0.1) == {"label_selector": NOT_N1}
    assert options_of_task(monkeypatch, order(broken, gpus=0), 8, 0) == {"label_selector": NOT_N1}


@pytest.mark.parametrize(
    ("gpus", "strictly", "kept_away"),
    [
        ((4, 4), True, True),
        ((4, 2, 2), True, True),
        ((4,), True, False),
        ((4, 3), True, False),
        ((8, 0), True, False),
        ((4, 4), False, False),
    ],
    ids=str,
)
def test_a_group_keeps_away_from_the_node_that_broke_it(
    gpus: tuple[float, ...], strictly: bool, kept_away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = RecordedRay(monkeypatch, *gpus)
    GroupAttempt(order(AvoidedNode("n1", strictly), workers=4), Store("memory://x"), None)  # type: ignore[arg-type]
    assert ray.groups == [{"strategy": "PACK", "bundle_label_selector": [NOT_N1] * 4 if kept_away else None}]


def test_units_with_equal_resources_share_a_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps each until the job ends."""
    ray, store = RecordedRay(monkeypatch, 8), Store("memory://x")
    for gpus in (1, 1, 0.5, 1):
        TaskAttempt(order(None, gpus), store, None)  # type: ignore[arg-type]
    for _ in range(2):
        GroupAttempt(order(None, workers=3), store, None)  # type: ignore[arg-type]
    assert [options.get("num_gpus") for options, _ in ray.declared] == [1, 0.5, None]
