"""How a run comes to a Ray of its own on a busy machine."""

import logging

import pytest
import ray

from vldd_dist.errors import InterruptedRun
from vldd_dist.ray_backend.executor import STARTS, _start_ray

SLOW = "The current node timed out during startup. This could happen because the GCS has become overloaded."


def starting(monkeypatch: pytest.MonkeyPatch, fails: int) -> list[str]:
    """Ray's start fails so many times, as it does when its processes take too long. What is called, in order."""
    calls: list[str] = []

    def init(**options: object) -> None:
        assert options["address"] == "local"
        calls.append("init")
        if calls.count("init") <= fails:
            raise Exception(SLOW)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    return calls


def test_a_slow_start_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls = starting(monkeypatch, STARTS - 1)
    with caplog.at_level(logging.WARNING):
        _start_ray()
    assert calls == ["init", "shutdown"] * (STARTS - 1) + ["init"]
    assert caplog.text.count("timed out during startup") == STARTS - 1


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    starting(monkeypatch, STARTS)
    with pytest.raises(InterruptedRun, match=r"Ray did not start on this machine in 3 tries \(The current node timed out"):
        _start_ray()
