"""A GPU that does not come to the end of its work."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch

from vldd_dist.sharding import gpu_watch
from vldd_dist.sharding.gpu_watch import GpuWatch, watching

SECONDS = 0.5


@pytest.fixture(autouse=True)
def _in_short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("MARK_SECONDS", 0.05), ("LOOK_SECONDS", 0.05), ("ASK_SECONDS", 0.01), ("END_SECONDS", 1)):
        monkeypatch.setattr(gpu_watch, name, seconds)


def told(mark: Callable[[], Callable[[], bool]], watched: float) -> list[str]:
    """What a watch with a timeout of `SECONDS` says within `watched` seconds."""
    sentences: list[str] = []
    with GpuWatch(mark, timedelta(seconds=SECONDS), sentences.append):
        time.sleep(watched)
    return sentences


@pytest.mark.parametrize("queue_is_full", [False, True])
def test_a_marker_that_is_never_reached_is_told_once(queue_is_full: bool) -> None:
    ended = threading.Event()

    def mark() -> Callable[[], bool]:
        if queue_is_full:
            ended.wait()
        return lambda: False

    before = set(threading.enumerate())
    # Not before its time.
    assert told(mark, 0.6 * SECONDS) == []
    (sentence,) = told(mark, 5 * SECONDS)
    assert sentence.startswith("its GPU has not come to the end of its work for 0.5 s")
    ended.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("reached_after", [0, 0.6 * SECONDS])
def test_markers_that_are_reached_in_time_are_not_told(reached_after: float) -> None:
    marks: list[float] = []

    def mark() -> Callable[[], bool]:
        marks.append(time.monotonic())
        return lambda: time.monotonic() - marks[-1] >= reached_after

    before = set(threading.enumerate())
    assert told(mark, 5 * SECONDS) == []
    assert len(marks) > 2
    assert set(threading.enumerate()) <= before, "no thread stays"


def test_a_gpu_that_fails_is_left_to_the_unit(caplog: pytest.LogCaptureFixture) -> None:
    def mark() -> Callable[[], bool]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert told(mark, 3 * SECONDS) == []
    assert [record.getMessage() for record in caplog.records] == [
        "the GPU is not watched any more: CUDA error: an illegal memory access was encountered"
    ]


def test_a_cpu_is_not_watched() -> None:
    before = threading.active_count()
    with watching(torch.device("cpu"), timedelta(seconds=SECONDS), pytest.fail):
        assert threading.active_count() == before
