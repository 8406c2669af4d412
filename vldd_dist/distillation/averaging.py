"""The running average of the pairs (PTM-ST, Guo et al. 2603.25388, publish it)."""

import torch

from vldd_dist.distillation.pairs import SyntheticPairs


class RunningAverage:
    """After n outer steps the mean of the pairs after steps 1..n, of which step n - k has a weight in proportion to decay^k.

    The published average begins as the pairs' start and keeps a weight of decay^n for it, which of a run of a few hundred steps
    is much: here it has none.

    Args:
        pairs: which the outer loop moves in place.
        decay: 0 for the pairs themselves.

    Attributes:
        value: the average: what is validated and published; before the first step the start.
        kept: the same, where it takes memory of its own.
    """

    def __init__(self, pairs: SyntheticPairs, decay: float) -> None:
        self.pairs, self.decay = pairs, decay
        self.kept = pairs.clone() if decay else None
        self.value = pairs if self.kept is None else self.kept

    @torch.no_grad()
    def update(self, done: int) -> None:
        """After outer step `done`, counted from 1."""
        if self.kept is None:
            return
        weight = (1 - self.decay) / (1 - self.decay**done)
        for own, new in ((self.kept.rows, self.pairs.rows), (self.kept.shared, self.pairs.shared)):
            for name, tensor in self.kept.learned(own).items():
                tensor.lerp_(new[name], weight)
