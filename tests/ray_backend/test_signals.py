"""Signals are recorded within the block, and have their own handlers again after it."""

import signal
import subprocess
import sys

import pytest

from vldd_dist.ray_backend.signals import CaughtSignals


def test_a_signal_is_recorded_and_raises_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with CaughtSignals(signal.SIGINT, signal.SIGTERM) as signals:
        assert not signals.any()
        signal.raise_signal(signal.SIGINT)
        assert signals.any()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_counts_if_it_is_not_the_first_one_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("vldd_dist.ray_backend.signals.time.monotonic", lambda: now[0])
    with CaughtSignals(signal.SIGINT) as signals:
        assert not signals.again()
        for now[0], again in ((100.0, False), (100.1, False), (105.0, True)):
            signal.raise_signal(signal.SIGINT)
            assert signals.again() == again


def test_where_nothing_polls_a_further_signal_ends_the_process() -> None:
    """The store is away, and the last status waits for it."""
    program = """
import signal, time
from vldd_dist.ray_backend import signals
signals.ONE_SIGNAL_SECONDS = 0.1
with signals.CaughtSignals(signal.SIGINT) as caught:
    for end_process in (False, True):
        caught.end_process = end_process
        for _ in range(2):
            print(end_process, flush=True)
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.2)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGINT, ["False", "False", "True"]), ended.stderr


@pytest.mark.parametrize("error", [RuntimeError("reentrant call inside a writer"), BrokenPipeError(), SystemExit(1)])
def test_the_first_signal_is_acknowledged_at_once(error: BaseException) -> None:
    said: list[str] = []

    def say() -> None:
        said.append("stopping")
        raise error

    with CaughtSignals(signal.SIGINT, say=say) as signals:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            assert (said, signals.any()) == (["stopping"], True)


def test_handlers_that_a_library_replaced_can_be_installed_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with CaughtSignals(signal.SIGTERM) as signals:
        signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the library's handler"))
        signals.install()
        signal.raise_signal(signal.SIGTERM)
        assert signals.any()
    assert signal.getsignal(signal.SIGTERM) is before
