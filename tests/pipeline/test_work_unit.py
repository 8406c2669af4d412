"""The order that a worker gets, and the order of units."""

from vldd_dist.config.base import Resources
from vldd_dist.pipeline.work_unit import WorkUnit, in_dependency_order


def test_an_order_asks_for_the_resources_of_one_worker_and_a_unit_for_those_of_all() -> None:
    unit = WorkUnit("expert", {}, resources=Resources(cpus=3, gpus=1), workers=2, own_process=True)
    order = unit.order()
    assert (order.worker_cpus, order.worker_gpus, order.own_process) == (3, 1, True)
    assert (unit.cpus, unit.gpus) == (order.worker_cpus * order.workers, order.worker_gpus * order.workers) == (6, 2)


def test_units_follow_their_inputs_and_are_listed_once() -> None:
    first, second = (WorkUnit("dataset", {"number": number}) for number in range(2))
    both = WorkUnit("expert", {}, {"a": first, "b": second})
    last = WorkUnit("publication", {}, {"b": second, "both": both})
    assert in_dependency_order([last, both, first]) == [second, first, both, last]
    assert in_dependency_order([first, last]) == [first, second, both, last]
