"""A run starts its own Ray, also on a busy machine, and no other machine can reach it."""

import logging
import os

import numpy as np
import pytest
import ray

from vldd_dist.errors import InterruptedRun
from vldd_dist.ray_backend import doctor, run
from vldd_dist.ray_backend import executor as executor_module
from vldd_dist.ray_backend.joining import STARTS, start_ray
from vldd_dist.store.store import Store
from vldd_dist.testing.servers.listening import LOOPBACK, listening_sockets, running_processes

SLOW = "The current node timed out during startup. This could happen because the GCS has become overloaded."


def starting(monkeypatch: pytest.MonkeyPatch, fails: int) -> list[str]:
    """Make Ray's start fail this many times, as when its processes take too long; returns the list of calls, in order."""
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
        start_ray()
    assert calls == ["init", "shutdown"] * (STARTS - 1) + ["init"]
    assert caplog.text.count("timed out during startup") == STARTS - 1


def test_a_ray_that_does_not_start_is_a_one_sentence_error(monkeypatch: pytest.MonkeyPatch) -> None:
    starting(monkeypatch, STARTS)
    with pytest.raises(InterruptedRun, match=r"Ray did not start on this machine in 3 tries \(The current node timed out"):
        start_ray()


@pytest.mark.parametrize("value", [None, "", "local"])
def test_an_empty_address_names_no_cluster(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RAY_ADDRESS= vldd run ...` unsets it for one command; Ray's own name for a new Ray on this machine is `local`."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    called: list[str] = []
    monkeypatch.setattr(executor_module, "start_ray", lambda: called.append("start_ray"))
    monkeypatch.setattr(executor_module, "join_cluster", lambda address: called.append("join_cluster"))
    monkeypatch.setattr(run, "compare_gpus", lambda units: called.append("compare_gpus"))
    monkeypatch.setattr(executor_module, "RayExecutor", lambda store, owns_cluster, *more: owns_cluster)
    assert executor_module.connected_executor(Store("memory://x"))
    run._refuse_what_cannot_run([], Store("memory://x"))
    assert called == ["start_ray", "compare_gpus"]
    (found,) = doctor._cluster()
    assert (found.verdict, "a run starts Ray on this machine" in found.says) == ("NOTE", True)


@pytest.mark.ray
def test_no_other_machine_reaches_it_and_its_objects_spill_to_disk() -> None:
    before, earlier = dict(os.environ), running_processes()
    start_ray(num_cpus=1, object_store_memory=100 << 20)
    try:
        assert dict(os.environ) == before | {name: os.environ[name] for name in os.environ if name not in before}
        kept = [ray.put(np.full(30 << 20, number, np.uint8)) for number in range(6)]
        assert [int(ray.get(one)[-1]) for one in kept] == list(range(6))
        assert ray.get(ray.remote(lambda: "worked").remote()) == "worked"
        sockets = listening_sockets(but=earlier)
    finally:
        ray.shutdown()
    assert {"gcs_server", "raylet"} <= {name for name, _ in sockets}
    assert any("Spill" in name for name, _ in sockets)
    assert [place for place in sockets if place[1] not in LOOPBACK] == []
