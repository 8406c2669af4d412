from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.submitting.ready_queue import MAX_OVERTAKEN, ReadyQueue
from vldd_dist.scheduler.submitting.resource_set import ResourceSet
from vldd_dist.testing.scripted_executor import make


def test_after_many_overtakings_only_lacking_resources_are_reserved() -> None:
    ready, capacity = ReadyQueue(), ResourceSet.of(Capacity(8, 2))
    ready.add(make("big", gpus=2), 0)
    for position in range(1, 60):
        ready.add(make(f"half {position}", gpus=0.5), position)
        ready.add(make(f"cpu {position}"), 100 + position)
    free = ResourceSet.of(Capacity(7, 1))
    taken = [ready.take(free, capacity) for _ in range(MAX_OVERTAKEN)]
    assert [unit and unit.label for unit in taken] == [f"half {position}" for position in range(1, MAX_OVERTAKEN + 1)]
    # From now on the free GPU is reserved for it, and one CPU as well, although it does not lack CPUs.
    assert [unit.label for unit in (ready.take(free, capacity), ready.take(free, capacity)) if unit] == ["cpu 1", "cpu 2"]
    assert ready.take(ResourceSet.of(Capacity(1, 1)), capacity) is None
    both = ready.take(ResourceSet.of(Capacity(1, 2)), capacity)
    assert both is not None
    assert both.label == "big"
    # For the next unit of its kind the count starts at 0.
    ready.add(make("big again", gpus=2), 0)
    again = ready.take(free, capacity)
    assert again is not None
    assert again.label == f"half {MAX_OVERTAKEN + 1}"


def test_a_unit_larger_than_the_cluster_delays_no_other() -> None:
    ready, capacity = ReadyQueue(), ResourceSet.of(Capacity(4, 0))
    ready.add(make("too big", cpus=8), 0)
    for position in range(3 * MAX_OVERTAKEN):
        ready.add(make(f"small {position}"), 1 + position)
    for position in range(3 * MAX_OVERTAKEN):
        taken = ready.take(capacity, capacity)
        assert taken is not None
        assert taken.label == f"small {position}"
    first = ready.first()
    assert first is not None
    assert first.label == "too big"


def test_resources_promised_to_queued_units_are_not_taken() -> None:
    ready, free = ReadyQueue(), ResourceSet.of(Capacity(4, 0))
    ready.add(make("small"), 0)
    assert ready.take(free, free, promised=[free]) is None
    taken = ready.take(free, free, promised=[ResourceSet.of(Capacity(3, 0))])
    assert taken is not None
    assert not ready
