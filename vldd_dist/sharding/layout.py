"""How the elements of parameters are distributed over the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from vldd_dist.sharding.ranks import Ranks


@dataclass(frozen=True)
class Layout:
    """A list of parameters distributed over the ranks.

    Attributes:
        shapes: shapes of the whole parameters.
        ranges: for each rank and each parameter the elements [start, stop) that the rank holds, in row-major order. Over all
            ranks every element occurs once.
    """

    ranks: Ranks
    shapes: Sequence[torch.Size]
    ranges: Sequence[Sequence[tuple[int, int]]]

    @classmethod
    def even(cls, ranks: Ranks, shapes: Sequence[torch.Size]) -> "Layout":
        """Each parameter cut into shards of equal length, the last ones shorter or empty, as ZeRO-3 does."""

        def cut(rank: int, shape: torch.Size) -> tuple[int, int]:
            elements = prod(shape)
            length = -(-elements // ranks.world_size)
            return min(rank * length, elements), min((rank + 1) * length, elements)

        return cls(ranks, shapes, [[cut(rank, shape) for shape in shapes] for rank in range(ranks.world_size)])

    @classmethod
    def by_rows(cls, ranks: Ranks, shapes: Sequence[torch.Size]) -> "Layout":
        """Each parameter cut along its first dimension into shards of equal length, the last ones shorter or empty, as FSDP
        does. Rank 0 holds parameters without dimensions."""

        def cut(rank: int, shape: torch.Size) -> tuple[int, int]:
            rows, width = (shape[0], prod(shape[1:])) if shape else (1, 1)
            length = -(-rows // ranks.world_size)
            return min(rank * length, rows) * width, min((rank + 1) * length, rows) * width

        return cls(ranks, shapes, [[cut(rank, shape) for shape in shapes] for rank in range(ranks.world_size)])

    @property
    def own(self) -> Sequence[tuple[int, int]]:
        """This rank's ranges."""
        return self.ranges[self.ranks.rank]

    def cut(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """This rank's shards (n,) of whole parameters, as views."""
        return [tensor.reshape(-1)[start:stop] for tensor, (start, stop) in zip(whole, self.own, strict=True)]

    @torch.no_grad()
    def gather(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """Whole parameters, tensors of `shapes`, from every rank's shards (n,), by one all-gather."""
        if self.ranks.world_size == 1:
            return [shard.view(shape) for shard, shape in zip(shards, self.shapes, strict=True)]
        # Each rank sends its shards, concatenated and padded to the length of the longest.
        longest = max(self._lengths())
        own = torch.cat([*shards, shards[0].new_zeros(longest - sum(len(shard) for shard in shards))])
        flat = own.new_empty(self.ranks.world_size * longest)
        dist.all_gather_into_tensor(flat, own)
        whole = [own.new_empty(prod(shape)) for shape in self.shapes]
        for rank, ranges in enumerate(self.ranges):
            position = rank * longest
            for tensor, (start, stop) in zip(whole, ranges, strict=True):
                tensor[start:stop] = flat[position : position + stop - start]
                position += stop - start
        return [tensor.view(shape) for tensor, shape in zip(whole, self.shapes, strict=True)]

    @torch.no_grad()
    def scatter_sum(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """This rank's shards (n,) of the sum over all ranks of whole parameters, tensors of `shapes`, by one reduce-scatter."""
        if self.ranks.world_size == 1:
            return [tensor.reshape(-1) for tensor in whole]
        longest = max(self._lengths())
        flat = whole[0].new_zeros(self.ranks.world_size, longest)
        for row, ranges in zip(flat, self.ranges, strict=True):
            torch.cat(
                [t.reshape(-1)[start:stop] for t, (start, stop) in zip(whole, ranges, strict=True)], out=row[: _length(ranges)]
            )
        own = flat.new_empty(longest)
        dist.reduce_scatter_tensor(own, flat.view(-1))
        return list(own[: _length(self.own)].split([stop - start for start, stop in self.own]))

    def inner_products(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """(n,) inner products of n pairs of sharded tensors, by one all-reduce."""
        return self.ranks.sum_in_place(torch.stack([torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)]))

    def _lengths(self) -> list[int]:
        return [_length(ranges) for ranges in self.ranges]


def _length(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in ranges)
