"""Groups of real processes that communicate by gloo, for tests and benchmarks."""

import os
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import torch

from vldd_dist.sharding.ranks import Ranks
from vldd_dist.sharding.rendezvous import Rendezvous, join, open_rendezvous
from vldd_dist.testing.processes.forks import loaded_processes, take_environment

TIMEOUT = timedelta(seconds=300)


class Group:
    """`world_size` processes that stay alive between calls."""

    def __init__(self, world_size: int, timeout: timedelta = TIMEOUT) -> None:
        self.world_size = world_size
        meeting, self._server = open_rendezvous("127.0.0.1", world_size)
        self._pools = [
            ProcessPoolExecutor(1, loaded_processes(), _enter, (dict(os.environ), meeting, rank, world_size, timeout))
            for rank in range(world_size)
        ]

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The results of `function(ranks, *arguments)` of all ranks. The function must be at the top level of a module."""
        futures = [pool.submit(_call, function, arguments) for pool in self._pools]
        return [future.result(timeout=900) for future in futures]

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)


_ranks: Ranks


def _enter(variables: dict[str, str], meeting: Rendezvous, rank: int, world_size: int, timeout: timedelta) -> None:
    global _ranks
    take_environment(variables)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    _ranks = join(meeting, rank, world_size, device=torch.device("cpu"), timeout=timeout)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(_ranks, *arguments)
    except Exception as error:
        raise RuntimeError(f"rank {_ranks.rank}: {traceback.format_exc()}") from error
