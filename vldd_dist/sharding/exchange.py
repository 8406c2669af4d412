"""Exchanging rows between the ranks that own them and the ranks that use them."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from vldd_dist.sharding.ranks import Ranks, rows_of


class Exchange:
    """Sends rows from the ranks that own them to the ranks that use them, and gradients back.

    Args:
        total: M, the number of rows over all ranks; `Ranks.rows` says which of them a rank owns.
        wanted: for every rank the indices (U_r,) of the rows that it uses, ascending; the same list on all ranks.
    """

    def __init__(self, ranks: Ranks, total: int, wanted: Sequence[Tensor]) -> None:
        self.ranks = ranks
        start, stop = ranks.rows(total)
        # For each rank the rows that this rank sends to it, counted from this rank's first row.
        self._sent = [rows[(rows >= start) & (rows < stop)] - start for rows in wanted]
        bounds = torch.tensor([rows_of(rank, ranks.world_size, total)[0] for rank in range(ranks.world_size)] + [total])
        places = torch.searchsorted(wanted[ranks.rank].contiguous(), bounds)
        self._received = (places[1:] - places[:-1]).tolist()

    def to_users(self, owned: Tensor) -> Tensor:
        """The rows (U, ...) that this rank uses. `owned` (m, ...) are the rows that it owns."""
        return self._move(owned[torch.cat(self._sent)], [len(rows) for rows in self._sent], self._received)

    def to_owners(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the ranks' `values` for each row that this rank owns.

        Args:
            values: (U, ...), one for each row that this rank uses.

        Returns:
            The rows (K,) that any rank uses, counted from this rank's first row, ascending; and their sums (K, ...).
        """
        counts = [len(rows) for rows in self._sent]
        received = self._move(values, self._received, counts)
        rows, places = torch.unique(torch.cat(self._sent), return_inverse=True)
        sums = received.new_zeros(len(rows), *received.shape[1:])
        # One rank after the other, so that sums of three or more values have the same bits on GPUs too.
        for place, values_of_rank in zip(places.to(received.device).split(counts), received.split(counts), strict=True):
            sums.index_add_(0, place, values_of_rank)
        return rows, sums

    def _move(self, rows: Tensor, outgoing: list[int], incoming: list[int]) -> Tensor:
        """Send `outgoing[r]` of the rows to each rank r, in order; returns the `incoming[r]` rows from each."""
        if self.ranks.world_size == 1:
            return rows
        received = rows.new_empty(sum(incoming), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), incoming, outgoing)
        return received
