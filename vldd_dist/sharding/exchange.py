"""Exchanging rows between the ranks that own them and the ranks that use them."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from vldd_dist.sharding.ranks import Ranks, rows_of


class Exchange:
    """Sends rows from the ranks that own them to the ranks that use them, and gradients back.

    Args:
        total: M rows over all ranks; `Ranks.rows` says which of them a rank owns.
        wanted: for every rank the rows (U_r,) it uses, ascending; equal on all ranks.
    """

    def __init__(self, ranks: Ranks, total: int, wanted: Sequence[Tensor]) -> None:
        self.ranks = ranks
        start, stop = ranks.rows(total)
        # For each rank, which of this rank's rows it wants, counted from this rank's first row.
        self._sent = [rows[(rows >= start) & (rows < stop)] - start for rows in wanted]
        bounds = torch.tensor([rows_of(rank, ranks.world_size, total)[0] for rank in range(ranks.world_size)] + [total])
        places = torch.searchsorted(wanted[ranks.rank].contiguous(), bounds)
        self._received = (places[1:] - places[:-1]).tolist()

    def to_users(self, owned: Tensor) -> Tensor:
        """The rows (U, ...) that this rank uses. `owned` (m, ...) are the rows that it owns."""
        return self._move(owned[torch.cat(self._sent)], [len(rows) for rows in self._sent], self._received)

    def to_owners(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over all ranks of their `values` for the rows this rank owns: (rows (K,) counted from its first row, ascending;
        sums (K, ...))."""
        came = self._move(values, self._received, [len(rows) for rows in self._sent])
        rows, places = torch.unique(torch.cat(self._sent), return_inverse=True)
        sums = came.new_zeros(len(rows), *came.shape[1:])
        return rows, sums.index_add_(0, places.to(came.device), came)

    def _move(self, rows: Tensor, outgoing: list[int], incoming: list[int]) -> Tensor:
        if self.ranks.world_size == 1:
            return rows
        arrived = rows.new_empty(sum(incoming), *rows.shape[1:])
        dist.all_to_all_single(arrived, rows.contiguous(), incoming, outgoing)
        return arrived
