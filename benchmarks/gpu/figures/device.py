"""The peak rates of the device: a large matrix product and a large copy, measured, beside the rates in the data sheet."""

import statistics
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place, rounding

REPEATS = 5


def run(place: Place, notes: Notes) -> None:
    """TFLOP/s of each precision, and TB/s of a copy (bytes read and bytes written)."""
    if place.on_gpu:
        properties = torch.cuda.get_device_properties(place.device)
        notes.remark(
            f"{place.name}, {properties.total_memory / 2**30:.1f} GiB, compute capability "
            f"{properties.major}.{properties.minor}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        )
        if place.data_sheet("bf16") is None:
            notes.remark(f"the data sheet of {place.name} is not known here: shares of its rates are left out")
    size = 256 if place.tiny else 8192
    for precision in ("fp32", "tf32", "bf16"):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=place.device).to(dtype) for _ in range(2))
        with rounding(precision):
            seconds = _median(place, partial(torch.matmul, a, b))
        notes.row(
            what=f"{precision} product of {size} x {size}",
            tera_per_second=2 * size**3 / seconds / 1e12,
            data_sheet=place.data_sheet(precision),
        )
    elements = 2**18 if place.tiny else 2**30
    source, target = (torch.ones(elements, device=place.device) for _ in range(2))
    seconds = _median(place, lambda: target.copy_(source))
    notes.row(what=f"copy of {elements * 4 // 2**20} MiB", tera_per_second=2 * source.nbytes / seconds / 1e12)


def _median(place: Place, work: Callable[[], object]) -> float:
    place.seconds(work)
    return statistics.median(place.seconds(work) for _ in range(REPEATS))
