"""Estimates the time left in a run from the durations of its units so far."""

import math
from dataclasses import dataclass

from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.running_unit import RunningUnit
from vldd_dist.reporting.durations import duration


@dataclass(frozen=True)
class TimeLeft:
    """An estimate of the time left.

    Attributes:
        complete: whether the duration of every kind of unit left is known; if not, the estimate is a lower bound.
    """

    seconds: float
    complete: bool

    def __str__(self) -> str:
        if not self.complete and self.seconds < 1:
            return "time left not known yet"
        return f"{'about' if self.complete else 'more than'} {duration(self.seconds)} left"


def time_left(state: RunState) -> TimeLeft:
    """The remaining work divided by the capacity of the scarcest resource, and at least the time that the slowest running unit
    still needs."""
    cpu_seconds = gpu_seconds = unit_seconds = longest = 0.0
    # Before the run has listed its units, nothing is known.
    complete = bool(state.total)
    running_by_kind, now = state.running_by_kind(), state.clock()
    for kind, total in state.total.items():
        open_units, running = total - state.done[kind] - state.failed[kind], running_by_kind[kind]
        if not open_units:
            continue
        seconds = _seconds_per_unit(state, kind, running)
        if seconds is None:
            complete = False
            continue
        left_of_running = [_seconds_left(unit, seconds, now) for unit in running]
        left_of_kind = (open_units - len(running)) * seconds + sum(left_of_running)
        cpu_seconds += left_of_kind * state.one_of_kind[kind].cpus
        gpu_seconds += left_of_kind * state.one_of_kind[kind].gpus
        unit_seconds += left_of_kind
        longest = max([longest, *left_of_running])
    by_resources = max(cpu_seconds / max(state.cpus, 1.0), gpu_seconds / (state.gpus or math.inf))
    by_max_running = unit_seconds / (state.max_running or math.inf)
    return TimeLeft(max(by_resources, by_max_running, longest), complete)


def _seconds_per_unit(state: RunState, kind: str, running: list[RunningUnit]) -> float | None:
    """The mean duration of the finished units or, if there are none, an estimate from the progress of the running ones."""
    if count := state.timed[kind]:
        return state.seconds[kind] / count
    now = state.clock()
    estimates = [1 / rate for unit in running if (rate := unit.rate(now))]
    return sum(estimates) / len(estimates) if estimates else None


def _seconds_left(unit: RunningUnit, usual: float, now: float) -> float:
    fraction = unit.fraction or 0.0
    if rate := unit.rate(now):
        return (1 - fraction) / rate
    return max(min(usual * (1 - fraction), usual - (now - unit.started_at)), 0.0)
