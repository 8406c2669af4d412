"""A run's figures as Ray's metrics: Prometheus reads them from the cluster, cluster/grafana/ draws them."""

import time
from collections.abc import Callable

from ray.util.metrics import Counter, Gauge

from vldd_dist.monitoring.progress import ProgressBoard

METRICS_SECONDS = 5
# Of a worker's report -> the gauge's name.
OF_A_UNIT = {
    "samples_per_second": "vldd_samples_per_second",
    "steps_per_second": "vldd_outer_steps_per_second",
    "loss": "vldd_loss",
    "validation": "vldd_validation",
}


class RayMetrics:
    """A progress view that sets gauges; Ray must be running when it is refreshed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, -float("inf")
        self._units: Gauge | None = None
        self._gauges: dict[str, Gauge] = {}
        self._retries: Counter | None = None
        self._retried = 0

    def begin(self, board: ProgressBoard) -> None:
        """Ray may not be there yet."""

    def line(self, text: str) -> None:
        """No figure."""

    def notice(self, text: str) -> None:
        self._retried += ": tried again, " in text

    def refresh(self, board: ProgressBoard) -> None:
        if self._clock() - self._last < METRICS_SECONDS:
            return
        self._last = self._clock()
        if self._units is None:
            self._units = Gauge("vldd_units", "Work units.", tag_keys=("kind", "state"))
            self._retries = Counter("vldd_retries_total", "Attempts that were tried again.")
            self._gauges = {
                key: Gauge(name, f"{key.replace('_', ' ')} of a unit.", tag_keys=("unit",)) for key, name in OF_A_UNIT.items()
            }
        assert self._retries is not None
        if self._retried:
            self._retries.inc(self._retried)
            self._retried = 0
        self._set_units(board, self._units)
        for unit_id, (unit, _) in board.running.items():
            for key, gauge in self._gauges.items():
                if (value := board.latest.get(unit_id, {}).get(key)) is not None:
                    gauge.set(value, {"unit": unit.label})

    def _set_units(self, board: ProgressBoard, gauge: Gauge) -> None:
        running = dict.fromkeys(board.total, 0)
        for unit, _ in board.running.values():
            running[unit.kind] += 1
        for kind, total in board.total.items():
            done, failed = board.done[kind], board.lost[kind]
            states = {
                "done": done,
                "failed": failed,
                "running": running[kind],
                "waiting": total - done - failed - running[kind],
            }
            for state, count in states.items():
                gauge.set(count, {"kind": kind, "state": state})

    def end(self) -> None:
        """The last figures stay until Ray ends."""
