"""A run's figures as Ray metrics. Prometheus scrapes them from the cluster; the dashboard in cluster/grafana/ shows them."""

import math

from ray.util.metrics import Counter, Gauge, Histogram

from vldd_dist.events import RunEvent, UnitFinished, UnitRetried
from vldd_dist.monitoring.live.run_state import RunState, View

METRICS_SECONDS = 5
# Field of `events.Progress` -> name of the gauge.
UNIT_GAUGES = {
    "samples_per_second": "vldd_samples_per_second",
    "steps_per_second": "vldd_outer_steps_per_second",
    "loss": "vldd_loss",
    "validation": "vldd_validation",
}
# Bucket bounds of the histogram of unit durations in seconds: from a coreset's second to the days of a large expert.
DURATIONS = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 48 * 3600.0]


class RayMetrics(View):
    """A view that sets gauges every `METRICS_SECONDS`. Ray must be running when it is refreshed. It may start after `begin`, so
    metrics are registered at the first refresh; their last values stay until Ray ends.

    Args:
        experiment: name of the experiment. Each metric has it as a tag, because a cluster may run several experiments.
    """

    def __init__(self, experiment: str) -> None:
        self._tag = {"experiment": experiment}
        self._set_at = -float("inf")
        self._units: Gauge | None = None
        self._gauges: dict[str, Gauge] = {}
        self._retries: Counter | None = None
        self._durations: Histogram | None = None
        # Since the last refresh: (kind, seconds) of each finished unit, and the number of retries.
        self._finished: list[tuple[str, float]] = []
        self._new_retries = 0
        # Unit id -> its label, and the gauges that have a value for it.
        self._shown: dict[str, tuple[str, set[str]]] = {}

    def event(self, event: RunEvent, state: RunState) -> None:
        self._new_retries += isinstance(event, UnitRetried)
        if isinstance(event, UnitFinished):
            self._finished.append((state.units[event.unit_id].kind, event.seconds))

    def refresh(self, state: RunState) -> None:
        if state.clock() - self._set_at < METRICS_SECONDS and not self._finished:
            return
        self._set_at = state.clock()
        if self._units is None:
            self._register()
        assert self._units is not None
        self._record_events()
        self._set_units(state, self._units)
        self._set_progress(state)

    def _register(self) -> None:
        self._units = Gauge("vldd_units", "Work units.", tag_keys=("experiment", "kind", "state"))
        self._retries = Counter("vldd_retries_total", "Attempts that ended and were tried again.", tag_keys=("experiment",))
        self._durations = Histogram(
            "vldd_unit_seconds", "From a unit's start to its commit.", boundaries=DURATIONS, tag_keys=("experiment", "kind")
        )
        self._gauges = {
            field: Gauge(name, f"{field.replace('_', ' ')} of a running unit.", tag_keys=("experiment", "unit"))
            for field, name in UNIT_GAUGES.items()
        }

    def _record_events(self) -> None:
        assert self._retries is not None
        assert self._durations is not None
        if self._new_retries:
            self._retries.inc(self._new_retries, self._tag)
            self._new_retries = 0
        for kind, seconds in self._finished:
            self._durations.observe(seconds, self._tag | {"kind": kind})
        self._finished.clear()

    def _set_progress(self, state: RunState) -> None:
        for unit_id in self._shown.keys() - state.running.keys():
            label, fields = self._shown.pop(unit_id)
            for field in fields:
                # With NaN, Ray drops the series at its next export; otherwise the last value would stay for two exports.
                self._gauges[field].set(math.nan, self._tag | {"unit": label})
        for unit_id, running in state.running.items():
            label, fields = self._shown.setdefault(unit_id, (running.unit.label, set()))
            for field, gauge in self._gauges.items():
                if (value := getattr(running.progress, field, None)) is not None:
                    gauge.set(value, self._tag | {"unit": label})
                    fields.add(field)

    def _set_units(self, state: RunState, gauge: Gauge) -> None:
        running_by_kind = state.running_by_kind()
        for kind, total in state.total.items():
            done, failed, running = state.done[kind], state.failed[kind], len(running_by_kind[kind])
            counts = {"done": done, "failed": failed, "running": running, "waiting": total - done - failed - running}
            for name, count in counts.items():
                gauge.set(count, self._tag | {"kind": kind, "state": name})
