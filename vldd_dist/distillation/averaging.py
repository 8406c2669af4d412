"""The running average of the pairs, which is published in their place (PTM-ST, Guo et al. 2603.25388)."""

import torch

from vldd_dist.distillation.pairs import SyntheticPairs


class RunningAverage:
    """After n outer steps, the mean of the pairs after steps 1..n; the weight of step n - k is proportional to decay^k.

    In the published code the average starts as the initial pairs, which keep a weight of decay^n. After a few hundred
    steps that is still a lot, so here the initial pairs have no weight.

    Args:
        pairs: the pairs that the outer loop updates in place.
        decay: 0 for no averaging: the value is the pairs themselves.

    Attributes:
        value: the average, which is validated and published; before the first step the initial pairs.
        kept: the average if it has memory of its own; None for decay 0.
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
        for averages, values in ((self.kept.rows, self.pairs.rows), (self.kept.shared, self.pairs.shared)):
            for name, tensor in self.kept.learned(averages).items():
                tensor.lerp_(values[name], weight)
