"""Running parts one after the other, each in its own process and with a time limit. Only the standard library is imported."""

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

# If fewer seconds than this remain, no further part is started, because it would not reach its first figure.
SHORTEST = 8.0
LOG_TAIL = 1500
# On a CPU, which is only for trying the command out, a part's time limit is multiplied by this.
PATIENCE = 6

Result = dict[str, Any]


def run_parts(
    parts: list[Part], folder: Path, *, device: str, tiny: bool, budget: float, renew: Callable[[list[Result]], None]
) -> list[Result]:
    """The result of each part, in order.

    Args:
        folder: folder for the parts' files.
        budget: seconds for all parts together.
        renew: called after every part with all results so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu.preloaded"])
    end, results = time.monotonic() + budget, list[Result]()
    for part in parts:
        remaining = end - time.monotonic()
        seconds = part.seconds * (PATIENCE if device == "cpu" else 1)
        if remaining < SHORTEST:
            results.append(_result(part, {"status": "not run", "problems": []}, 0.0))
        else:
            results.append(_run(part, context, folder / f"{part.name}.json", device, tiny, min(seconds, remaining)))
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
        timed_out = process.is_alive()
        _end(process)
    result = json.loads(file.read_text()) if file.exists() else {"status": "running", "rows": [], "problems": []}
    if result["status"] == "running":
        result["status"] = "out of time" if timed_out else "crashed"
        reason = f"stopped after {limit:.0f} s" if timed_out else f"its process ended with {process.exitcode}"
        result["problems"] = [*result["problems"], reason]
    if result["status"] not in ("ok", "out of time") and file.with_suffix(".log").exists():
        result["log"] = file.with_suffix(".log").read_text(errors="replace")[-LOG_TAIL:]
    return _result(part, result, time.monotonic() - started)


def _work(*arguments: Any) -> None:
    # Imported here, so that the process that runs the parts does not import torch.
    from benchmarks.gpu.worker import work

    work(*arguments)


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """End a part's process and its ranks."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _result(part: Part, result: Result, seconds: float) -> Result:
    return {"part": part.name, "kind": part.kind, "title": part.title, "seconds": round(seconds, 1), **result}
