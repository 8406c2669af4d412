import pytest

from vldd_dist.scheduler.executor import Capacity
from vldd_dist.scheduler.submitting.admission import MAX_QUEUED, Admission
from vldd_dist.testing.scripted_executor import make


def test_resources_are_reserved_from_admission_to_release() -> None:
    admission = Admission()
    admission.update(Capacity(4, 1))
    unit, other = make("unit", cpus=3, gpus=1), make("other", cpus=2)
    admission.submit(unit)
    assert admission.fits(other), "what is queued reserves nothing"
    assert admission.admit(unit.id) is unit
    assert admission.admit(unit.id) is None
    assert not admission.fits(other)
    admission.release(unit)
    assert admission.fits(other)
    assert admission.submitted == set()


def test_more_than_the_capacity_may_be_reserved() -> None:
    """A unit may run although nothing is free by the count, because machines join and leave between two requests for the
    capacity."""
    admission = Admission()
    unit = make("unit")
    admission.submit(unit)
    admission.admit(unit.id)
    assert admission.free.cpus < 0
    admission.update(Capacity(1, 0))
    assert admission.free == (0, 0)


def test_what_the_machines_lack_for_a_unit() -> None:
    admission, unit = Admission(), make("unit", cpus=1.5, gpus=0.5)
    for capacity, could_run in ((Capacity(4, 0), False), (Capacity(2, 2, may_grow=True), True), (Capacity(0, 0), False)):
        admission.update(capacity)
        assert admission.could_run(unit) is could_run
    assert not admission.may_grow
    shortfall = admission.shortfall(unit)
    assert shortfall == "unit asks for 1.5 CPUs and 0.5 GPUs, the machines have 0 CPUs and 0 GPUs"


@pytest.mark.parametrize("limit", [None, 3])
def test_limits_of_submitted_and_queued_units(limit: int | None) -> None:
    admission = Admission(limit)
    while admission.may_queue():
        admission.submit(make(f"unit {len(admission.submitted)}"))
    assert len(admission.queued) == len(admission.submitted) == (limit or MAX_QUEUED)
    assert admission.may_submit() == (limit is None)


def test_what_the_present_machines_could_run_of_the_queue() -> None:
    admission = Admission()
    admission.update(Capacity(2, 0))
    large, small = make("large", cpus=8), make("small", cpus=2)
    admission.submit(large)
    assert admission.queued_within_capacity() == []
    admission.submit(small)
    assert admission.queued_within_capacity() == [(20_000, 0)]
