"""The report during a run: when it is written, what it reads, and that no failure to write it stops the run."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.monitoring.run_at_work import Clock
from tests.pipeline.conftest import finished  # noqa: F401 (a fixture)
from tests.run_status import RUN
from vldd_dist.artifacts.runs.run_status import RunStatus, UnitStatus
from vldd_dist.errors import Outage, StoreError
from vldd_dist.events import UnitStarted
from vldd_dist.monitoring.live.live_report import LISTED, PAUSE_FACTOR, REPORT_SECONDS, LiveReport, progress_of
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.monitoring.live.status import StatusWriter
from vldd_dist.monitoring.reports.report import Reporter
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.reporting.data import RunProgress
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_experiment import experiment


class Recorder:
    """Replaces a reporter: it takes `seconds` of the clock, can be made to fail, and waits for `gate`."""

    error: Exception | None

    def __init__(self, clock: Clock) -> None:
        self.clock, self.written = clock, []
        self.seconds, self.error = 0.0, None
        self.gate = threading.Event()
        self.gate.set()

    def write(self, progress: RunProgress) -> None:
        self.gate.wait(10)
        self.clock.now += self.seconds
        if self.error:
            raise self.error
        self.written.append(progress)


class Setting:
    def __init__(self, store: Store) -> None:
        self.clock = Clock()
        self.recorder = Recorder(self.clock)
        self.status = StatusWriter(store, "scenes", RUN)
        self.live = LiveReport(self.recorder, self.status)  # type: ignore[arg-type]
        self.state = RunState([self.status, self.live], self.clock)
        units = [WorkUnit("expert", {"index": index}, label=f"expert {index}") for index in range(3)]
        self.state.begin(units, {units[0].id})
        self.state.event(UnitStarted(units[1].id))
        self.unit = units[1]

    def look(self, after: float) -> int:
        """The number of reports after one more call of the loop."""
        self.clock.now += after
        self.state.refresh()
        self.settle()
        return len(self.recorder.written)

    def settle(self) -> None:
        if self.live._writing is not None:
            self.live._writing.result(HANG_SECONDS)


def test_it_is_written_at_once_and_then_each_minute(store: Store) -> None:
    setting = Setting(store)
    assert setting.look(0) == 1
    assert setting.look(REPORT_SECONDS - 1) == 1
    assert setting.look(1) == 2
    assert setting.recorder.written[-1].state == "running"


def test_a_slow_one_is_written_more_rarely(store: Store) -> None:
    setting = Setting(store)
    setting.recorder.seconds = 10
    assert setting.look(0) == 1
    assert setting.look(PAUSE_FACTOR * 10 - 11) == 1
    assert setting.look(2) == 2


def test_reports_are_written_in_the_background_one_at_a_time(store: Store) -> None:
    setting = Setting(store)
    setting.recorder.gate.clear()
    for _ in range(3):
        setting.clock.now += REPORT_SECONDS
        setting.state.refresh()
    assert setting.recorder.written == []
    setting.recorder.gate.set()
    setting.settle()
    assert len(setting.recorder.written) == 1


@pytest.mark.parametrize("error", [StoreError("the store is away"), ValueError("two columns have the same key")])
def test_a_failed_write_of_the_report_does_not_stop_the_run(
    error: Exception, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting(store)
    setting.recorder.error = error
    with caplog.at_level(logging.WARNING):
        assert setting.look(0) == 0
    assert "the report was not written" in caplog.text
    assert str(error) in caplog.text
    setting.recorder.error = None
    assert setting.look(REPORT_SECONDS) == 1


@pytest.mark.parametrize(
    ("state", "last"), [("stopped", ["running", "stopped"]), ("failed", ["running", "failed"]), ("done", ["running"])]
)
def test_a_run_that_ended_midway_says_so_in_its_report(store: Store, state: Any, last: list[str]) -> None:
    setting = Setting(store)
    setting.look(0)
    setting.status.ended_as = state
    setting.state.end()
    assert [progress.state for progress in setting.recorder.written] == last


def test_a_store_that_is_away_is_not_waited_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C, each write would take a minute."""
    setting = Setting(store)
    assert setting.look(0) == 1

    def away(key: str, data: bytes) -> None:
        raise Outage("given up after 60 s")

    monkeypatch.setattr(store, "write", away)
    setting.state.end()
    assert [progress.state for progress in setting.recorder.written] == ["running"]


def test_the_text_of_a_status_in_a_report() -> None:
    units = [UnitStatus(label=f"unit {index}", seconds=1, event={"done": index, "total": 50}) for index in range(LISTED + 3)]
    status = RunStatus(
        experiment="scenes",
        run=RUN,
        state="running",
        stages={},
        running=units,
        time_left="5 s left",
        notices=["a"] * 20,
        written_at="2026-01-02T03:04:05+00:00",
    )
    progress = progress_of(status)
    assert progress.written_at == "2026-01-02 03:04:05 UTC"
    assert progress.running[1] == ("unit 1", "1/50")
    assert progress.running[-1] == ("and 3 more", "")
    assert len(progress.notices) == LISTED


def test_no_object_is_read_twice(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    reads: Counter[str] = Counter()
    read: Callable[..., bytes] = Store.read

    def counting(self: Store, key: str, at_most: int | None = None) -> bytes:
        reads[key] += 1
        return read(self, key)

    monkeypatch.setattr(Store, "read", counting)
    tree = experiment()
    reporter = Reporter(Graph(tree), finished)
    first = reporter.collect()
    assert first.rows
    assert first.galleries
    assert sum(reads.values()) > 5
    assert max(reads[key] for key in reads if key.startswith("units/")) == 1
    reads.clear()
    assert reporter.collect() == first
    assert not reads, "committed objects do not change"
