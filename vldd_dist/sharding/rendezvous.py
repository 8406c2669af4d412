"""Starting and ending the process group of a unit's ranks."""

import os
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from vldd_dist.sharding.ranks import Ranks

# How long a rank waits for the others: starting a process and loading its libraries takes seconds, on a busy machine minutes.
MEETING = timedelta(minutes=5)


class JoinFailed(RuntimeError):
    """Not all ranks connected within `MEETING`.

    Attributes:
        missing: the ranks that did not, as far as this rank knows.
    """

    def __init__(self, sentence: str, missing: tuple[int, ...]) -> None:
        super().__init__(f"{sentence} within {MEETING.total_seconds() / 60:g} min")
        self.missing = missing


@dataclass(frozen=True)
class Rendezvous:
    """The address at which the ranks of a group connect. Rank 0 opens it and keeps the server alive."""

    host: str
    port: int


def open_rendezvous(host: str, world_size: int) -> tuple[Rendezvous, dist.TCPStore]:
    """Start listening on a free port of this machine."""
    server = dist.TCPStore(host, 0, world_size, is_master=True, wait_for_workers=False)
    return Rendezvous(host, server.port), server


def join(meeting: Rendezvous, rank: int, world_size: int, *, device: torch.device, timeout: timedelta) -> Ranks:
    """Join the process group of a unit's ranks; a process can be in one group at a time.

    Args:
        timeout: with gloo, a collective fails when a rank does not join it for this long; with NCCL see `gpu_watch.watching`.

    Raises:
        JoinFailed: not all ranks connected within `MEETING`.
        RuntimeError: the group could not be made of the ranks that connected.
    """
    # Newer torch versions rename two collectives and warn at each use; the old names work in every supported version.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    try:
        store = dist.TCPStore(meeting.host, meeting.port, world_size, is_master=False, timeout=MEETING)
        store.set(f"here/{rank}", "")
    except RuntimeError:
        raise JoinFailed(f"rank {rank} of {world_size} could not connect to rank 0", (rank,)) from None
    # The ranks start at different times: wait for all before the shorter `timeout` applies.
    try:
        store.wait([f"here/{other}" for other in range(world_size)], MEETING)
    except RuntimeError:
        missing = tuple(other for other in range(world_size) if not store.check([f"here/{other}"]))
        named = ", ".join(map(str, missing))
        raise JoinFailed(f"rank {named} of {world_size} did not connect to rank 0", missing) from None
    # DeepSpeed reads these variables. Each rank sees only its own device, as number 0.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")
    os.environ.update(MASTER_ADDR=meeting.host, MASTER_PORT=str(meeting.port))
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Otherwise torch's watchdog ends this process when another rank is lost, and it would count as killed itself. With this
    # variable an operation with a handle raises after `timeout` when it is waited for. Synchronous ones have no handle since
    # torch 2.8: `GpuWatch` notices those.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return Ranks(rank, world_size)


def leave() -> None:
    """Leave the process group."""
    dist.destroy_process_group()
