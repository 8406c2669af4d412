"""Curves in the files of other tools, written and read back by each tool's real library."""

import json
import re
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.monitoring.run_at_work import Clock, state_at_work
from vldd_dist.errors import ConfigError
from vldd_dist.events import Progress, UnitFinished, UnitReported, UnitStarted
from vldd_dist.monitoring.live.tracking import TRACK_SECONDS, Tracking, make_tracking
from vldd_dist.testing.experiments.tiny import HANG_SECONDS


def track(tracking: Tracking, clock: Clock) -> None:
    """Two reports of a unit, each processed twice, then the end."""
    state, units = state_at_work([tracking], clock)
    for step in (10, 20):
        clock.now += 2 * TRACK_SECONDS
        state.event(UnitReported(units[1].id, Progress(step, 100, loss=10.0 / step, epoch=1)))
        for _ in range(2):
            state.refresh()
            if tracking._sending is not None:
                tracking._sending.result(HANG_SECONDS)
            clock.now += 2 * TRACK_SECONDS
    tracking.end()


def test_tensorboard(tmp_path: Path) -> None:
    track(make_tracking(f"tensorboard={tmp_path}", "scenes"), Clock())
    (path,) = (tmp_path / "expert-1").iterdir()
    assert scalars(path) == [("loss", 10, 1.0), ("loss", 20, 0.5)]


def scalars(path: Path) -> list[tuple[str, int, float]]:
    """The scalars in an event file, whose records are: length (8 bytes), its checksum (4), an Event, its checksum (4)."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        at += 16 + length
    return found


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    # Without a database MLflow stores runs in folders.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    target = f"file://{tmp_path}"
    for _ in range(2):
        track(make_tracking(f"mlflow={target}", "scenes"), Clock())
    client = MlflowClient(target)
    experiment = client.get_experiment_by_name("scenes")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"], "two runs in one MLflow experiment"
    history = client.get_metric_history(runs[0].info.run_id, "expert 1/loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 1.0), (20, 0.5)]


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    track(make_tracking("wandb=distillation", "scenes"), Clock())
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # The library's process may write the last records after `finish` has returned.
    deadline = time.monotonic() + HANG_SECONDS
    while not (found := records(path)) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert history(found) == [{"expert 1/loss": 1.0, "expert 1/step": 10}, {"expert 1/loss": 0.5, "expert 1/step": 20}]


def records(path: Path) -> list[Any]:
    """The records in a run's file, which follow 7 bytes: checksum (4 bytes), length (2), kind (1; 1 is a complete one),
    Record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, found = path.read_bytes(), 7, []
    while at + 7 <= len(data):
        length, kind = struct.unpack_from("<HB", data, at + 4)
        assert kind == 1
        if at + 7 + length > len(data):
            break
        found.append(Record.FromString(data[at + 7 : at + 7 + length]))
        at += 7 + length
    return found


def history(found: list[Any]) -> list[dict[str, float]]:
    """The values that a run logged."""
    rows = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            items = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in items.items() if not name.startswith("_")})
    return rows


@pytest.mark.parametrize("description", ["comet=x", "tensorboard", "tensorboard="])
def test_an_unknown_tracker_is_a_one_sentence_error(description: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one of tensorboard=TARGET, wandb=TARGET, mlflow=TARGET"):
        make_tracking(description, "scenes")


@pytest.mark.parametrize("description", ["mlflow=nowhere://x", "tensorboard={tmp}/file/runs"])
def test_a_tracker_that_cannot_start_is_a_one_sentence_error(description: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    description = description.format(tmp=tmp_path)
    with pytest.raises(ConfigError, match=f"^--track {re.escape(description)}: ") as caught:
        make_tracking(description, "scenes")
    assert "\n" not in str(caught.value)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb is not installed: pip install wandb"):
        make_tracking("wandb=x", "scenes")


def test_a_tracker_that_fails_later_does_not_stop_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        calls = closed = 0

        def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
            self.calls += 1
            raise ConnectionError("the server is gone")

        def ended(self, unit: str) -> None:
            raise AssertionError("it was given up")

        def close(self) -> None:
            self.closed += 1

    failing = Failing()
    track(Tracking(failing), Clock())
    assert (failing.calls, failing.closed) == (1, 1)
    assert "curves are no longer tracked: the server is gone" in caplog.text


def test_a_slow_tracker_gets_coarser_curves_and_does_not_slow_the_run() -> None:
    class Slow:
        def __init__(self) -> None:
            self.gate, self.steps, self.over = threading.Event(), [], []

        def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
            self.gate.wait(10)
            self.steps.append(step)

        def ended(self, unit: str) -> None:
            self.over.append(unit)

        def close(self) -> None:
            """Does nothing, because nothing is open."""

    slow, clock = Slow(), Clock()
    tracking = Tracking(slow)
    state, units = state_at_work([tracking], clock)
    for step in (1, 2, 3):
        clock.now += 2 * TRACK_SECONDS
        state.event(UnitReported(units[1].id, Progress(step, 100, loss=1.0)))
        state.refresh()
    assert slow.steps == []
    slow.gate.set()
    assert tracking._sending is not None
    tracking._sending.result(HANG_SECONDS)
    state.event(UnitFinished(units[1].id, 1))
    clock.now += 2 * TRACK_SECONDS
    state.refresh()
    tracking.end()
    assert slow.steps == [1, 3]
    assert slow.over == ["expert 1"], "after its last figures"


def test_a_tracker_gets_the_last_figures_of_each_unit() -> None:
    calls: list[Any] = []

    class Recorder:
        def log(self, unit: str, step: int, figures: Mapping[str, float]) -> None:
            calls.append((unit, step, figures["validation"]))

        def ended(self, unit: str) -> None:
            calls.append(f"{unit} ended")

        def close(self) -> None:
            calls.append("closed")

    clock = Clock()
    tracking = Tracking(Recorder())
    state, units = state_at_work([tracking], clock)
    # What has no figures is not sent: a tracker would show an empty run for it.
    for now, step, recall in ((90, 1800, None), (100, 1900, 25.0), (103, 2000, 26.4)):
        clock.now = now
        state.event(UnitReported(units[1].id, Progress(step, 2000, validation=recall)))
        state.refresh()
    clock.now = 104
    state.event(UnitFinished(units[1].id, 104))
    # A unit that lasts less than the time between two samples, just before the end of the run.
    state.event(UnitStarted(units[2].id))
    state.event(UnitReported(units[2].id, Progress(5, 5, validation=1.0)))
    state.event(UnitFinished(units[2].id, 1))
    state.end()
    assert calls == [("expert 1", 1900, 25.0), ("expert 1", 2000, 26.4), ("expert 2", 5, 1.0), "closed"]
