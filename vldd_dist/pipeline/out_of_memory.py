"""A unit that does not fit its device: a sentence that says what to lower, in place of a traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vldd_dist.errors import DeviceMemoryError
from vldd_dist.pipeline.stage import StageSpec

# What torch's libraries say beside `torch.OutOfMemoryError`: allocators of the CPU and of CUDA, cuBLAS, cuDNN.
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")
_CAPACITY = re.compile(r"total capacity of ([\d.]+ \w+)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)


@contextmanager
def naming_what_to_lower(stage: StageSpec, label: str) -> Iterator[None]:
    """Within the `with` block, an error of an allocator becomes DeviceMemoryError. The unit's checkpoints stay in the store.

    Args:
        label: the unit's.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        room = f", or raise {stage.section}.resources to a device with more memory" if stage.section else ""
        stored = ", where it goes on from its last checkpoint" if room and stage.stores_when_stopped else ""
        advice = f"lower {stage.lower_for_memory}{room}{stored}; --plan says what fits"
        raise DeviceMemoryError(f"{label} ran out of memory{_sizes(str(error))}: {advice}") from error


def _sizes(said: str) -> str:
    found = [
        text.format(match[1])
        for text, match in (("it asked for {} more", _ASKED.search(said)), ("the GPU has {}", _CAPACITY.search(said)))
        if match
    ]
    return f" ({', '.join(found)})" if found else ""
