"""A run's figures as Ray metrics: Prometheus scrapes them from the cluster, cluster/grafana/ draws them."""

import time
from collections.abc import Callable

from ray.util.metrics import Counter, Gauge

from vldd_dist.events import RunEvent, UnitRetried
from vldd_dist.monitoring.run_state import RunState

METRICS_SECONDS = 5
# Field of `events.Progress` -> name of the gauge.
UNIT_GAUGES = {
    "samples_per_second": "vldd_samples_per_second",
    "steps_per_second": "vldd_outer_steps_per_second",
    "loss": "vldd_loss",
    "validation": "vldd_validation",
}


class RayMetrics:
    """A view that sets gauges every `METRICS_SECONDS`; Ray must be running when it is refreshed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._set_at = clock, -float("inf")
        self._units: Gauge | None = None
        self._gauges: dict[str, Gauge] = {}
        self._retries: Counter | None = None
        # Since the counter was last increased.
        self._new_retries = 0

    def begin(self, state: RunState) -> None:
        """Metrics are registered at the first refresh: Ray may not be running yet."""

    def event(self, event: RunEvent, state: RunState) -> None:
        self._new_retries += isinstance(event, UnitRetried)

    def refresh(self, state: RunState) -> None:
        if self._clock() - self._set_at < METRICS_SECONDS:
            return
        self._set_at = self._clock()
        if self._units is None:
            self._units = Gauge("vldd_units", "Work units.", tag_keys=("kind", "state"))
            self._retries = Counter("vldd_retries_total", "Attempts that ended and were tried again.")
            self._gauges = {
                field: Gauge(name, f"{field.replace('_', ' ')} of a unit.", tag_keys=("unit",))
                for field, name in UNIT_GAUGES.items()
            }
        assert self._retries is not None
        if self._new_retries:
            self._retries.inc(self._new_retries)
            self._new_retries = 0
        self._set_units(state, self._units)
        for running in state.running.values():
            for field, gauge in self._gauges.items():
                if (value := getattr(running.progress, field, None)) is not None:
                    gauge.set(value, {"unit": running.unit.label})

    def _set_units(self, state: RunState, gauge: Gauge) -> None:
        running_by_kind = state.running_by_kind()
        for kind, total in state.total.items():
            done, failed, running = state.done[kind], state.failed[kind], len(running_by_kind[kind])
            counts = {"done": done, "failed": failed, "running": running, "waiting": total - done - failed - running}
            for name, count in counts.items():
                gauge.set(count, {"kind": kind, "state": name})

    def end(self) -> None:
        """The last figures stay until Ray ends."""
