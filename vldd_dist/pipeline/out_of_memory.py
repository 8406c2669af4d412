"""Out-of-memory errors: a unit that does not fit its device ends with a sentence that says which setting to lower."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vldd_dist.errors import DeviceMemoryError, DeviceOccupied, is_out_of_memory
from vldd_dist.pipeline.stage import StageSpec

_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")
_CAPACITY = re.compile(r"total capacity of ([\d.]+ \w+)")
# What this process uses beside the tensors of its allocator: CUDA's context, loaded kernels, NCCL's buffers.
_OUTSIDE_ALLOCATOR = 2 << 30


@contextmanager
def naming_what_to_lower(stage: StageSpec, label: str, gpus: float) -> Iterator[None]:
    """Within the `with` block, raise DeviceMemoryError in place of an allocator's error, or DeviceOccupied if other processes
    hold the memory. The unit's checkpoints stay in the store.

    Args:
        label: of the unit.
        gpus: of this process; a fraction is shared with other units.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if gpus >= 1 and (holds := _held_by_others()):
            raise DeviceOccupied(f"{label}: other processes hold {holds} its GPU: end them") from error
        larger_device = ", or run it on a device with more memory" if stage.section else ""
        resumes = ", where it resumes from its last checkpoint" if larger_device and stage.stores_when_stopped else ""
        advice = f"lower {stage.lower_for_memory}{larger_device}{resumes}; `vldd run --plan` estimates what fits"
        raise DeviceMemoryError(f"{label} ran out of memory{_sizes(str(error))}: {advice}") from error


def _held_by_others() -> str | None:
    """How much of this process's GPU other processes hold, as "N GiB of"; None if it is not so much as to matter."""
    if not torch.cuda.is_initialized():
        return None
    try:
        free, total = torch.cuda.mem_get_info()
        # Of the memory that this process's allocator reserves, parts may be free again.
        held = total - free - torch.cuda.memory_reserved()
    except RuntimeError:
        # There was not even memory for CUDA's context, and so this process has allocated nothing.
        return "all memory of"
    return f"{held / 2**30:.1f} GiB of" if held > _OUTSIDE_ALLOCATOR else None


def _sizes(message: str) -> str:
    parts = []
    if asked := _ASKED.search(message):
        parts.append(f"it asked for {asked[1]} more")
    if capacity := _CAPACITY.search(message):
        parts.append(f"the GPU has {capacity[1]}")
    return f" ({', '.join(parts)})" if parts else ""
