"""Random seeds. Every random draw derives from (seed, purpose, step), and no global generator is used.

A resumed run derives its generators from its position, so its result is bit for bit that of an uninterrupted run.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts, their order and their types."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(*parts: int | str) -> "np.random.Generator":
    """A numpy generator seeded by `derive_seed(*parts)`."""
    # Imported here, because losses derive seeds, and training on a distilled set must not require numpy.
    import numpy as np

    return np.random.default_rng(derive_seed(*parts))
