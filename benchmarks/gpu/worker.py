"""Running one part in its own process."""

import contextlib
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place
from vldd_dist.control_characters import one_line
from vldd_dist.pipeline.out_of_memory import is_out_of_memory


def work(entry: str, arguments: dict[str, Any], file: Path, device: str, tiny: bool) -> None:
    """Run a part. Its results are written to the file, and its output to a log beside it."""
    # A process group of its own, so that the part's ranks end with it.
    with contextlib.suppress(OSError):
        os.setsid()
    with open(file.with_suffix(".log"), "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    notes = Notes(file)
    try:
        if device == "cpu":
            torch.set_num_threads(1)
        else:
            torch.cuda.set_device(0)
        module, _, function = entry.partition(":")
        place = Place(torch.device(device), tiny)
        getattr(import_module(module), function)(place, notes, **arguments)
    except Exception as error:
        traceback.print_exc()
        notes.wrong(f"{type(error).__name__}: {one_line(str(error))[:400]}")
        notes.end("out of memory" if is_out_of_memory(error) else "failed")
    else:
        notes.end("failed" if notes.problems else "ok")
    sys.stdout.flush()
