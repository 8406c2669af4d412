import pytest

from vldd_dist.errors import InterruptedRun
from vldd_dist.scheduler.submitting.capacity_timeout import CapacityTimeout
from vldd_dist.scheduler.submitting.shortage import Shortage

TIMEOUT_SECONDS = 5 * 3600.0


def test_the_user_is_notified_once_and_the_run_times_out() -> None:
    now, told = [0.0], list[str]()
    timeout = CapacityTimeout(told.append, lambda: now[0], TIMEOUT_SECONDS)

    def wait(at: float) -> None:
        now[0] = at
        timeout.wait(Shortage("no GPU", "machines", "no others came"), notice_after=60)

    wait(0)
    wait(59)
    assert told == []
    wait(60)
    wait(TIMEOUT_SECONDS - 1)
    assert told == ["no GPU: waiting for machines"]
    with pytest.raises(InterruptedRun, match=r"no GPU, and no others came within 300 minutes: .* raise --wait-hours"):
        wait(TIMEOUT_SECONDS)
    # The time starts again if a unit ran meanwhile, or if the run waits for something else.
    timeout.reset()
    wait(TIMEOUT_SECONDS)
    timeout.wait(Shortage("no GPU", "another", "none came"))
    wait(2 * TIMEOUT_SECONDS - 1)
    assert told[1:] == ["no GPU: waiting for another"]


def test_a_wait_for_other_programs_has_no_timeout() -> None:
    now, told = [0.0], list[str]()
    timeout = CapacityTimeout(told.append, lambda: now[0], TIMEOUT_SECONDS)
    for now[0] in (0.0, 2 * TIMEOUT_SECONDS):
        timeout.wait(Shortage("no GPU", "them", "none became free", times_out=False))
    assert told == ["no GPU: waiting for them"]


def test_without_a_wait_for_machines_workers_still_have_time_to_start() -> None:
    now = [0.0]
    timeout, starting = CapacityTimeout(lambda text: None, lambda: now[0], 0.0), Shortage("a", "workers", "none started it")
    for now[0] in (0.0, 59.0):
        timeout.wait(starting, notice_after=60)
    now[0] = 60.0
    with pytest.raises(InterruptedRun):
        timeout.wait(starting, notice_after=60)
    with pytest.raises(InterruptedRun):
        timeout.wait(Shortage("no GPU", "machines", "no others came"))
