"""A batch of real pairs."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RealRows:
    """This rank's rows of a batch of real pairs.

    Attributes:
        inputs: model inputs (b, ...) of the images of this rank's `rows_to_compute`.
        texts: (b, D) text embeddings of the same rows.
        total: B, the number of rows over all ranks.
    """

    inputs: Tensor
    texts: Tensor
    total: int
