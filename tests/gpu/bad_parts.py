"""Parts of the GPU benchmark that fail."""

import os
import time

import torch

from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place


def raises(place: Place, notes: Notes) -> None:
    raise ValueError("no\nsuch thing")


def lacks_memory(place: Place, notes: Notes) -> None:
    torch.empty(2**50)


def dies(place: Place, notes: Notes) -> None:
    notes.check("half of it", 1, 2)
    os.abort()


def hangs(place: Place, notes: Notes) -> None:
    notes.row(what="first")
    time.sleep(600)


def fails(place: Place, notes: Notes) -> None:
    notes.check("error", 0.3, 0.2)


def holds(place: Place, notes: Notes) -> None:
    notes.check("error", 0.1, 0.2)
