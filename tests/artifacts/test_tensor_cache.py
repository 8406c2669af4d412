"""Decoded snapshots in memory, read by several threads."""

import threading
import time
from collections import Counter
from collections.abc import Callable
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

    def ask() -> None:
        if method == "get":
            cache.get("digest", fail)
        elif (future := cache.prefetch("digest", 12, fail)) is not None:
            future.result()

    with pytest.raises(ConnectionError, match="no route"):
        ask()
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


def path_of(cache: TensorCache, numbers: int) -> tuple[Counter[str], Callable[[str], None], Callable[[str], bool]]:
    """How often each object of so many numbers was loaded; functions that get one and that prefetch one."""
    loads: Counter[str] = Counter()

    def load(name: str) -> NamedTensors:
        loads[name] += 1
        return {"w": torch.ones(numbers)}

    def prefetch(name: str) -> bool:
        future = cache.prefetch(name, 4 * numbers, lambda: load(name))
        return future is not None and len(future.result(HANG_SECONDS)) == 1

    return loads, lambda name: cache.get(name, lambda: load(name)) and None, prefetch


def test_what_was_prefetched_stays_until_it_is_used() -> None:
    """Also if the objects in use need the whole limit."""
    cache = TensorCache(limit_bytes=100)
    loads, get, prefetch = path_of(cache, 12)
    assert prefetch("a")
    assert prefetch("b")
    for name in ("x", "y", "a", "b"):
        get(name)
    assert loads == {"a": 1, "b": 1, "x": 1, "y": 1}
    assert len(cache) == 2, "after its use it is dropped as any other"


def test_no_more_is_prefetched_than_fits() -> None:
    cache = TensorCache(limit_bytes=100)
    loads, get, prefetch = path_of(cache, 12)
    assert [prefetch(name) for name in "abcd"] == [True, True, False, False]
    assert prefetch("a"), "it is there"
    get("a")
    assert prefetch("c")
    for name in "bcd":
        get(name)
    assert loads == dict.fromkeys("abcd", 1)


def test_a_failed_prefetch_takes_no_room() -> None:
    cache = TensorCache(limit_bytes=100)

    def fail() -> NamedTensors:
        raise ConnectionError("no route")

    failed = cache.prefetch("x", 100, fail)
    assert failed is not None
    assert isinstance(failed.exception(HANG_SECONDS), ConnectionError)
    assert path_of(cache, 12)[2]("a")
