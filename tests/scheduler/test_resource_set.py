from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.submitting.resource_set import ResourceSet
from vldd_dist.testing.scripted_executor import make


def test_amounts_are_exact() -> None:
    assert ResourceSet.of(make("two", gpus=0.57, workers=2)) == (20_000, 11_400)
    tenth = ResourceSet.of(Capacity(0, 0.1))
    assert tenth.plus(tenth).plus(tenth) == ResourceSet.of(Capacity(0, 0.3))
    assert tenth.minus(tenth) == (0, 0)


def test_a_request_is_covered_where_everything_it_asks_for_is_there() -> None:
    # The machine of a GPU left before its unit was known to be lost.
    left = ResourceSet(cpus=4, gpus=-1)
    assert left.covers(ResourceSet(4, 0))
    assert not left.covers(ResourceSet(5, 0))
    assert not left.covers(ResourceSet(1, 1))


def test_leaves_enough_for_a_waiting_request() -> None:
    free, waiting = ResourceSet(cpus=7, gpus=1), ResourceSet(cpus=1, gpus=2)
    # It lacks GPUs, and needs one CPU.
    assert not free.leaves_enough_for(waiting, after=ResourceSet(1, 1))
    assert free.leaves_enough_for(waiting, after=ResourceSet(6, 0))
    assert not free.leaves_enough_for(waiting, after=ResourceSet(7, 0))
