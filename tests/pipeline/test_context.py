"""What a unit's runner is given."""

import random

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.store.store import Store


def roles(store: Store, names: list[str], prefix: str) -> list[str]:
    order = UnitOrder("distillation", "0", {}, dict.fromkeys(names, ("expert", "0")), {}, 1, 0, "")
    return StageContext(order, store, UnitWriter(store, "distillation", "0", {}, {}), lambda event: None).roles(prefix)


def test_roles_are_in_the_order_of_their_numbers(store: Store) -> None:
    """An index among them is the expert's, and a draw by it means the same whatever their number."""
    experts = [f"expert_{index:03d}" for index in range(1102)]
    given = ["features", *experts]
    random.Random(0).shuffle(given)
    assert roles(store, given, "expert_") == experts
    assert roles(store, ["recall.random.0.10", "recall.random.0.9", "recall.herding.1.0"], "recall.") == [
        "recall.herding.1.0",
        "recall.random.0.9",
        "recall.random.0.10",
    ]
    assert roles(store, ["recall.random.10.0", "recall.random.-1.0", "recall.random.9.0"], "recall.random.") == [
        "recall.random.9.0",
        "recall.random.10.0",
        "recall.random.-1.0",
    ]
