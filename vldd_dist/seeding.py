"""Random seeds. Every random draw derives from (seed, purpose, step); global generators are used only while they are seeded.

A resumed run derives its generators from its position, so its result is bit for bit that of an uninterrupted run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts, their order and their types. torch's generator on the CPU uses its low 32 bits:
    of 10,000 generators two draw the same with probability 0.012. Generators of numpy and of CUDA use all bits."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(*parts: int | str) -> "np.random.Generator":
    """A numpy generator seeded by `derive_seed(*parts)`."""
    # Imported here, because this module is a leaf: importing it loads nothing beyond the standard library.
    import numpy as np

    return np.random.default_rng(derive_seed(*parts))


@contextmanager
def seeded(seed: int, device: "torch.device | None" = None) -> Iterator[None]:
    """Within the `with` block, torch's global generators of the CPU and, if it is given, of `device` start at this seed. They
    are restored at the end. Other devices are not touched: a unit on the CPU must not start CUDA."""
    import torch

    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
