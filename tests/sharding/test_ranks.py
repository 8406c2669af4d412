"""Sums over ranks."""

import torch
from torch import Tensor

from vldd_dist.sharding.ranks import Ranks


class One(Ranks):
    """A rank of several, which gets the given sum."""

    def __init__(self, total: Tensor) -> None:
        super().__init__()
        self.total = total

    def sum_in_place(self, tensor: Tensor) -> Tensor:
        return self.total


def test_a_sum_of_parts_is_the_same_on_all_ranks() -> None:
    """Bit for bit, in spite of the parts of the ranks: what one of them rejects as divergence, all do."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        parts = torch.rand(8, generator=generator).requires_grad_()
        sums = torch.stack([One(parts.detach().sum()).sum_of_parts(part) for part in parts])
        assert sums.tolist() == [float(parts.detach().sum())] * 8
        (gradient,) = torch.autograd.grad(sums.sum(), [parts])
        assert gradient.tolist() == [1.0] * 8, "each rank's own part only"
