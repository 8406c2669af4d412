"""Where a part runs: its device, what that can do at most, how time and memory are taken there."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks._measure import peak_of_tensors

# Whether torch may round the factors of matrix products, and of convolutions, to TF32. `torch` is what it does unasked; bf16
# rules the backbone alone (`distill.precision`), the rest is as torch does it.
PRECISIONS = {"fp32": (False, False), "torch": (False, True), "tf32": (True, True), "bf16": (False, True)}

# A part of a card's name, the first that fits (H200 is in GH200, too) -> dense TFLOP/s of the data sheet, bf16 and TF32.
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
    """Attributes:
    tiny: small networks and few repeats, to try the command out.
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
        """TFLOP/s at most; none: of an unknown card, or a precision without tensor cores."""
        found = next((rates for part, rates in DATA_SHEETS.items() if part.lower() in self.name.lower()), None)
        if found is None or precision not in ("bf16", "tf32"):
            return None
        return float(found[precision == "tf32"])

    def synchronise(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one call, the device's work included."""
        self.synchronise()
        started = time.perf_counter()
        work()
        self.synchronise()
        return time.perf_counter() - started

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """By how much the allocator's bytes in use rise in a call, at most. On a CPU the profiler's record tells."""
        if not self.on_gpu:
            return peak_of_tensors(work)
        self.synchronise()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.synchronise()
        return torch.cuda.max_memory_allocated(self.device) - before

    def free(self) -> None:
        """Give what the allocator keeps back to the device."""
        if self.on_gpu:
            torch.cuda.empty_cache()


@contextmanager
def rounding(precision: str) -> Iterator[None]:
    """Within the `with` block torch rounds as a key of `PRECISIONS` says."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = PRECISIONS[precision]
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
