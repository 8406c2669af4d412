"""The state of a run whose units are at work, and a clock that the test sets."""

from vldd_dist.events import UnitStarted
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.pipeline.work_unit import WorkUnit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def state_at_work(views: list[View], clock: Clock) -> tuple[RunState, list[WorkUnit]]:
    """A run with three experts, of which the first is done and the second runs."""
    state = RunState(views, clock)
    units = [WorkUnit("expert", {"index": index}, label=f"expert {index}") for index in range(3)]
    state.begin(units, {units[0].id})
    state.event(UnitStarted(units[1].id))
    return state, units
