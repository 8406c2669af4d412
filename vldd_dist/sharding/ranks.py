"""The ranks of one unit: processes that work on it together, and their collective operations.

A unit on a single process uses `SOLO`, whose collectives return their argument, so that callers are written once for any number
of ranks.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vldd_dist.errors import message_of

Value = TypeVar("Value")

# While rank 0 computes something for all, it tells the others this often that it lives.
ALIVE_SECONDS = 1.0


class LostRank(Exception):
    """Another rank died or hung. The group starts again from its last checkpoint."""


class Ranks:
    """This process among the ranks of its unit.

    Attributes:
        rank, world_size: its number, counted from 0, and the number of ranks.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone reports progress and writes checkpoint records and manifests."""
        return self.rank == 0

    def sum_in_place(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, computed in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_with_gradient(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, differentiable any number of times (its adjoint is the same sum)."""
        return _Sum.apply(tensor) if self.world_size > 1 else tensor

    def rows_to_compute(self, total: int) -> tuple[int, int]:
        """The rows [start, stop) of a batch of `total` rows that this rank computes. If there are more ranks than rows, some
        compute the first row and discard it: networks reject an empty batch, and all ranks of an engine must run their passes
        together."""
        return rows_to_compute(self.rank, self.world_size, total)

    def rows_gatherer(self, total: int) -> Callable[[Tensor], Tensor]:
        """A function from the features (n, ...) of this rank's `rows_to_compute` to those of all rows (total, ...),
        differentiable any number of times."""
        start, stop = self.rows(total)

        def gather_rows(rows: Tensor) -> Tensor:
            if self.world_size == 1:
                return rows
            assert len(rows) == max(stop - start, 1), f"{len(rows)} rows, not {start} to {stop} of {total}"
            rows, rest = rows[: stop - start], rows.shape[1:]
            return self.sum_with_gradient(torch.cat([rows.new_zeros(start, *rest), rows, rows.new_zeros(total - stop, *rest)]))

        return gather_rows

    def sum_of_parts(self, part: Tensor) -> Tensor:
        """The sum of `part` over all ranks, the same on all of them bit for bit, with a gradient only to this rank's part. For
        sums in which each term depends on the inputs of one rank only."""
        # The difference is 0 and only carries the gradient.
        return self.sum_in_place(part.detach().clone()) + (part - part.detach())

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Value) -> Value:
        """The value of rank 0."""
        if self.world_size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def from_main(self, compute: Callable[[], Value]) -> Value:
        """The result of `compute()` on rank 0, which may take longer than the timeout of a collective: the others notice if the
        rank hangs or dies, but wait while it computes. `compute` must not use collectives.

        Raises:
            Exception: on rank 0, what `compute` raises.
        """
        if self.world_size == 1:
            return compute()
        if not self.is_main:
            answer: tuple[Value, ...] = ()
            while not answer:
                answer = self.broadcast(answer)
            return answer[0]
        threads = torch.get_num_threads()

        def in_thread() -> Value:
            # The number is a property of the thread, and determines the order of summation.
            torch.set_num_threads(threads)
            return compute()

        pool = ThreadPoolExecutor(1)
        try:
            computing = pool.submit(in_thread)
            while not wait([computing], ALIVE_SECONDS).done:
                self.broadcast(())
            return self.broadcast((computing.result(),))[0]
        finally:
            # Without waiting: if another rank is lost, this one must say so at once.
            pool.shutdown(wait=False)

    def all_agree(self, opinion: bool) -> bool:
        """Whether `opinion` is true on all ranks."""
        return all(self.all_gather(opinion))

    def rows(self, total: int) -> tuple[int, int]:
        """The rows [start, stop) of `total` that this rank owns: contiguous, in the order of ranks, of sizes that differ by at
        most one."""
        return rows_of(self.rank, self.world_size, total)

    @contextmanager
    def noticing_a_loss(self) -> Iterator[None]:
        """Within the `with` block, a failed collective raises LostRank: another rank died or hung. This rank cannot tell which
        one; the process that started the group can."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size > 1 and _of_a_collective(error):
                raise LostRank(message_of(error)) from error
            raise


class _Sum(torch.autograd.Function):
    """All-reduce by addition. Its backward pass is the same operation, so it can be differentiated again."""

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


def _of_a_collective(error: BaseException) -> bool:
    # gloo raises plain RuntimeErrors.
    words = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out waiting")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
