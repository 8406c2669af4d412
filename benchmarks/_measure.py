"""Functions that the benchmarks share: new processes, CPU time, peak memory, the last line of JSON. Linux only."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

THREADS = 1


class FreshProcess:
    """A new process that runs functions one after the other, and ends with the `with` block.

    It computes with one thread, so that its CPU time equals its wall time on an idle machine.
    """

    def __init__(self) -> None:
        # Read by the child when it first loads torch.
        os.environ.update(OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS))
        self._executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def run(self, function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        """The result of a module's function; its arguments and result must pickle."""
        return self._executor.submit(function, *arguments, **named).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._executor.shutdown()


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU seconds (user and system) of one call, which other work on the machine hardly affects."""
    started = time.process_time()
    function()
    return time.process_time() - started


def peak_memory(function: Callable[[], Result]) -> tuple[Result, int]:
    """A call's result, and the bytes by which the resident set rose above its size before it."""
    before = resident("VmRSS")
    # Resets VmHWM to the current size; ru_maxrss cannot be reset and starts with the parent's value.
    Path("/proc/self/clear_refs").write_text("5")
    result = function()
    return result, max(resident("VmHWM") - before, 0)


def peak_of_tensors(function: Callable[[], object]) -> int:
    """The peak of the bytes that torch's CPU allocator had allocated in a call, from the profiler's record of every allocation
    and release."""
    # Imported here, so that torch is loaded only if tensors are measured.
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest


def resident(field: str) -> int:
    """Bytes in a field of /proc/self/status: VmRSS, the current resident set, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def print_json(figures: Mapping[str, float]) -> None:
    """Print the figures as one JSON object on one line, the last line of a benchmark's output."""
    print(json.dumps(figures, allow_nan=False), flush=True)
