"""Runs parts one after the other, each in its own process and within its time. Standard library only."""

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Part

# With less than this left no part is begun: it would not come to its first figure.
SHORTEST = 8.0
LOG_TAIL = 1500
# A CPU, which is for trying the command out, gets so many times a part's time.
PATIENCE = 6

Result = dict[str, Any]


def run_parts(
    parts: list[Part], folder: Path, *, device: str, tiny: bool, budget: float, renew: Callable[[list[Result]], None]
) -> list[Result]:
    """What became of each part, the first ones first.

    Args:
        folder: of the parts' files.
        budget: seconds for all of them.
        renew: called after every part with all results so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu.preloaded"])
    end, results = time.monotonic() + budget, list[Result]()
    for part in parts:
        left = end - time.monotonic()
        seconds = part.seconds * (PATIENCE if device == "cpu" else 1)
        if left < SHORTEST:
            results.append(_result(part, {"status": "not run", "problems": []}, 0.0))
        else:
            results.append(_run(part, context, folder / f"{part.name}.json", device, tiny, min(seconds, left)))
        renew(results)
    return results


def _run(
    part: Part, context: multiprocessing.context.ForkServerContext, file: Path, device: str, tiny: bool, limit: float
) -> Result:
    for old in (file, file.with_suffix(".log")):
        old.unlink(missing_ok=True)
    started = time.monotonic()
    process = context.Process(target=_work, args=(part.entry, part.arguments, file, device, tiny))
    process.start()
    try:
        process.join(limit)
    finally:
        cut = process.is_alive()
        _end(process)
    found = json.loads(file.read_text()) if file.exists() else {"status": "running", "rows": [], "problems": []}
    if found["status"] == "running":
        found["status"] = "out of time" if cut else "crashed"
        said = f"cut after {limit:.0f} s" if cut else f"its process ended with {process.exitcode}"
        found["problems"] = [*found["problems"], said]
    if found["status"] not in ("ok", "out of time") and file.with_suffix(".log").exists():
        found["log"] = file.with_suffix(".log").read_text(errors="replace")[-LOG_TAIL:]
    return _result(part, found, time.monotonic() - started)


def _work(*arguments: Any) -> None:
    # Here, so that the process that runs the parts loads no torch.
    from benchmarks.gpu.worker import work

    work(*arguments)


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """The part and its ranks."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _result(part: Part, found: Result, seconds: float) -> Result:
    return {"part": part.name, "kind": part.kind, "title": part.title, "seconds": round(seconds, 1), **found}
