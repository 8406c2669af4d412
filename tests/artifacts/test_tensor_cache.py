"""Decoded snapshots in memory, read by several threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vldd_dist.artifacts.tensor_files.tensor_cache import NamedTensors, TensorCache
from vldd_dist.testing.experiments.tiny import HANG_SECONDS


def test_threads_that_need_the_same_snapshot_load_it_once() -> None:
    cache, loads, asking = TensorCache(), [], threading.Barrier(4)

    def load() -> NamedTensors:
        loads.append(threading.get_ident())
        # Meanwhile the other threads ask for it.
        time.sleep(0.2)
        return {"w": torch.ones(3)}

    def get() -> NamedTensors:
        asking.wait(HANG_SECONDS)
        return cache.get("digest", load)

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(get) for _ in range(4)]
        snapshots = [thread.result() for thread in threads]
    assert len(loads) == 1
    assert all(snapshot is snapshots[0] for snapshot in snapshots)


@pytest.mark.parametrize("method", ["get", "prefetch"])
def test_a_failure_is_not_kept(method: str) -> None:
    cache = TensorCache()

    def fail() -> NamedTensors:
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError, match="no route"):
        cache.get("digest", fail) if method == "get" else cache.prefetch("digest", fail).result()
    assert cache.get("digest", lambda: {"w": torch.ones(3)})["w"].tolist() == [1, 1, 1]


def test_the_least_recently_used_are_dropped_but_never_the_newest() -> None:
    cache, loads = TensorCache(limit_bytes=100), []

    def get(name: str, numbers: int) -> None:
        cache.get(name, lambda: loads.append(name) or {"w": torch.ones(numbers)})  # type: ignore[func-returns-value]

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name, 12)
    assert loads == ["a", "b", "c", "b"]
    get("large", 1000)
    get("large", 1000)
    assert loads[4:] == ["large"]
    assert len(cache) == 1
