"""The ranks of one unit: processes that work on it together, and what they say to each other.

A unit that one process does alone has `SOLO`, whose collectives change nothing: the rooms above are written once.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


# Starting a process and loading its libraries takes seconds, on a busy or cold machine minutes.
MEETING = timedelta(minutes=5)


class LostRank(Exception):
    """Another rank died or hung: nobody's fault, the group starts again from its last checkpoint."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of a group meet: made by rank 0, which keeps `server` alive."""

    host: str
    port: int


def open_rendezvous(host: str, world_size: int) -> tuple[Rendezvous, dist.TCPStore]:
    """Begin to listen on a free port of this machine."""
    server = dist.TCPStore(host, 0, world_size, is_master=True, wait_for_workers=False)
    return Rendezvous(host, server.port), server


class Ranks:
    """This process among the ranks of its unit.

    Attributes:
        rank, world_size: its number, 0.., and how many there are.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size

    @property
    def is_main(self) -> bool:
        """Rank 0, which speaks for all: reports progress, writes marks and manifests."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_with_gradient(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, differentiable any number of times: its adjoint is itself."""
        return _Sum.apply(tensor) if self.world_size > 1 else tensor

    def rows_to_compute(self, total: int) -> tuple[int, int]:
        """This rank's rows of a batch; of more ranks than rows some compute the first one in vain, for networks do not take a
        batch of none, and an engine's ranks pass through them together."""
        return rows_to_compute(self.rank, self.world_size, total)

    def rows_gatherer(self, total: int) -> Callable[[Tensor], Tensor]:
        """A function from this rank's `rows_to_compute` (n, ...) to all rows (total, ...), differentiable any number of
        times."""
        start, stop = self.rows(total)

        def gather_rows(rows: Tensor) -> Tensor:
            if self.world_size == 1:
                return rows
            assert len(rows) == max(stop - start, 1), f"{len(rows)} rows, not {start} to {stop} of {total}"
            rows, rest = rows[: stop - start], rows.shape[1:]
            return self.all_reduce_with_gradient(
                torch.cat([rows.new_zeros(start, *rest), rows, rows.new_zeros(total - stop, *rest)])
            )

        return gather_rows

    def all_reduce_of_parts(self, part: Tensor) -> Tensor:
        """The sum over all ranks, whose gradient stays with the part: for sums of terms that depend on one rank each."""
        return part + (self.all_reduce(part.detach().clone()) - part.detach())

    def all_gather(self, value: Value) -> list[Value]:
        """Every rank's value, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value."""
        if self.world_size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def all_agree(self, opinion: bool) -> bool:
        """Whether all ranks say yes."""
        return all(self.all_gather(opinion))

    def rows(self, total: int) -> tuple[int, int]:
        """[start, stop) of this rank's share of `total` rows: contiguous, in the order of ranks, sizes at most one apart."""
        return rows_of(self.rank, self.world_size, total)

    @contextmanager
    def noticing_a_loss(self) -> Iterator[None]:
        """Within, a collective that fails raises LostRank: another rank died or hung. Who that was, those that see all know."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size > 1 and _of_a_collective(error):
                raise LostRank(" ".join(str(error).split())[:200]) from error
            raise


class _Sum(torch.autograd.Function):
    """All-reduce; the sum's adjoint is the sum, and so are the adjoint's and the next one's."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *upstream: Any) -> Any:
        return _Sum.apply(*upstream)


SOLO = Ranks()


def rows_of(rank: int, world_size: int, total: int) -> tuple[int, int]:
    """See `Ranks.rows`."""
    small, larger = divmod(total, world_size)
    start = rank * small + min(rank, larger)
    return start, start + small + (rank < larger)


def rows_to_compute(rank: int, world_size: int, total: int) -> tuple[int, int]:
    """See `Ranks.rows_to_compute`."""
    start, stop = rows_of(rank, world_size, total)
    return (start, stop) if start < stop else (0, 1)


def join(meeting: Rendezvous, rank: int, world_size: int, *, device: torch.device, timeout: timedelta) -> Ranks:
    """Meet the other ranks; one group a process.

    Args:
        timeout: after which a collective that a rank does not join fails.

    Raises:
        RuntimeError: not all came within `MEETING`.
    """
    # Newer torch has other names for two collectives and says so at each use; the old ones serve every release supported.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    store = dist.TCPStore(meeting.host, meeting.port, world_size, is_master=False, timeout=MEETING)
    # Processes start at their own pace: all are here before the shorter timeout holds.
    store.set(f"here/{rank}", "")
    store.wait([f"here/{other}" for other in range(world_size)], MEETING)
    # DeepSpeed reads them. Each rank sees one device of its own.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")
    os.environ.update(MASTER_ADDR=meeting.host, MASTER_PORT=str(meeting.port))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return Ranks(rank, world_size)


def leave() -> None:
    """End the group in this process."""
    dist.destroy_process_group()


def _of_a_collective(error: BaseException) -> bool:
    # gloo raises plain RuntimeErrors.
    words = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out waiting")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


class Exchange:
    """Rows that lie on their owners and are used elsewhere: to the users, and their gradients back.

    Args:
        total: M rows over all ranks, each rank's share as `Ranks.rows` has it.
        wanted: for every rank the rows (U_r,) it uses, ascending; known to all.
    """

    def __init__(self, ranks: Ranks, total: int, wanted: Sequence[Tensor]) -> None:
        self.ranks = ranks
        start, stop = ranks.rows(total)
        # Of each user the rows of mine that it wants, as places in my share.
        self._sent = [rows[(rows >= start) & (rows < stop)] - start for rows in wanted]
        bounds = torch.tensor([rows_of(rank, ranks.world_size, total)[0] for rank in range(ranks.world_size)] + [total])
        places = torch.searchsorted(wanted[ranks.rank].contiguous(), bounds)
        self._received = (places[1:] - places[:-1]).tolist()

    def to_users(self, owned: Tensor) -> Tensor:
        """The rows (U, ...) this rank uses, from everyone's share (m, ...)."""
        return self._move(owned[torch.cat(self._sent)], [len(rows) for rows in self._sent], self._received)

    def to_owners(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of what the users have for this rank's rows: (rows (K,) of its share ascending, values (K, ...))."""
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
