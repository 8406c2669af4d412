"""distill.objective.min_experts: a run starts with the first experts and waits for each further one when it may draw it. The
draws do not depend on when the experts were trained."""

from collections.abc import Callable

import pytest
import torch

from vldd_dist.artifacts.units import is_done
from vldd_dist.errors import ConfigError
from vldd_dist.events import Progress, UnitReport
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.outcome import InputAwaited
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run, units_of
from vldd_dist.testing.experiments.tiny_units import digests
from vldd_dist.testing.processes.group import Group

# Of six outer steps the first two draw from one expert, the third from two, the fourth and later ones from three.
OVERRIDES = ("experts.count=3", "distill.objective.min_experts=1")


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"distill.objective.min_experts \(4\) is more than experts.count \(3\)"):
        experiment("experts.count=3", "distill.objective.min_experts=4")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All inputs except the last two experts."""
    store = Store(str(tmp_path_factory.mktemp("prepared")))
    units = Graph(experiment(*OVERRIDES)).units()
    first, _, _ = units_of(experiment(*OVERRIDES), "expert")
    run(store, [unit for unit in units if unit.kind in DATA_KINDS] + [first])
    return store


def attempt(ranks: Ranks, url: str, unit: WorkUnit) -> tuple[str | None, list[int]]:
    """Run the unit. Returns the role it waits for, or None, and the outer steps it reported."""
    torch.set_num_threads(1)
    steps: list[int] = []

    def report(event: UnitReport) -> None:
        if isinstance(event, Progress):
            steps.append(event.done)

    try:
        execute(unit.order(), Store(url), report, ranks)
    except InputAwaited as wait:
        return wait.role, steps
    return None, steps


def test_a_run_waits_for_experts_and_gives_bit_identical_results(prepared: Store, copy: Callable[[str], Store]) -> None:
    (unit,) = units_of(experiment(*OVERRIDES), "distillation")
    assert unit.later == {"expert_001", "expert_002"}
    straight, store = copy("straight"), copy("store")
    _, second, third = units_of(experiment(*OVERRIDES), "expert")
    run(straight, [second, third])
    assert attempt(SOLO, straight.url, unit) == (None, [1, 2, 3, 4, 5, 6])

    assert attempt(SOLO, store.url, unit) == ("expert_001", [1, 2])
    # An attempt before the expert exists does not change the result.
    assert attempt(SOLO, store.url, unit) == ("expert_001", [])
    assert not is_done(store, "distillation", unit.id)
    run(store, [second])
    assert attempt(SOLO, store.url, unit) == ("expert_002", [3])
    run(store, [third])
    assert attempt(SOLO, store.url, unit) == (None, [4, 5, 6])
    assert digests(store, unit) == digests(straight, unit)


def test_ranks_wait_together(copy: Callable[[str], Store], group: Callable[[int], Group]) -> None:
    (unit,) = units_of(experiment(*OVERRIDES, "distill.workers=2"), "distillation")
    store = copy("store")
    (first, steps), (second, _) = group(2).run(attempt, store.url, unit)
    assert (first, second, steps) == ("expert_001", "expert_001", [1, 2])
