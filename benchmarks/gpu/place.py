"""The device on which a part runs: its peak rates, and how time and memory are measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks._measure import peak_of_tensors

# Whether torch may round the factors of matrix products, and of convolutions, to TF32. `torch` is torch's default; with bf16,
# which applies only to the backbone (`distill.precision`), everything else has torch's default.
PRECISIONS = {"fp32": (False, False), "torch": (False, True), "tf32": (True, True), "bf16": (False, True)}

# Part of a card's name -> dense TFLOP/s in its data sheet, bf16 and TF32. The first match is used (H200 matches GH200 too).
DATA_SHEETS = {
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 417),
    "H200 NVL": (835, 417),
    "H100": (989, 494),
    "H200": (989, 494),
    "B200": (2250, 1125),
    "A100": (312, 156),
    "A30": (165, 82),
    "A10": (125, 62),
    "L40S": (362, 183),
    "L4": (121, 60),
}


@dataclass(frozen=True)
class Place:
    """The device of a part.

    Attributes:
        tiny: whether networks are small and repeats few, to try the command out.
    """

    device: torch.device
    tiny: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU"

    def data_sheet(self, precision: str) -> float | None:
        """Peak TFLOP/s in the data sheet; None for an unknown card, or a precision without tensor cores."""
        rates = next((rates for part, rates in DATA_SHEETS.items() if part.lower() in self.name.lower()), None)
        if rates is None or precision not in ("bf16", "tf32"):
            return None
        return float(rates[precision == "tf32"])

    def synchronise(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one call, including the work on the device."""
        self.synchronise()
        started = time.perf_counter()
        work()
        self.synchronise()
        return time.perf_counter() - started

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """The peak of the bytes that are allocated during a call, above those before. On a CPU it is taken from the profiler's
        record."""
        if not self.on_gpu:
            return peak_of_tensors(work)
        self.synchronise()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.synchronise()
        return torch.cuda.max_memory_allocated(self.device) - before

    def free(self) -> None:
        """Return the allocator's cached memory to the device."""
        if self.on_gpu:
            torch.cuda.empty_cache()


@contextmanager
def rounding(precision: str) -> Iterator[None]:
    """In the `with` block, torch rounds as a key of `PRECISIONS` says."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = PRECISIONS[precision]
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
