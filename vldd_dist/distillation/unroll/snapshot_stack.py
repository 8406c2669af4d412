"""Where the unroll's snapshots wait for the sweep back: with the student, in the host's memory, or on its disk."""

from pathlib import Path
from typing import IO, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import Params


class Shelf(Protocol):
    """A stack of snapshots."""

    def push(self, tensors: Params) -> None:
        """Keep the values; the caller does not change them."""
        ...

    def pop(self) -> Params:
        """The snapshot pushed last, on the device it came from."""
        ...


class InPlace:
    """Where they are."""

    def __init__(self) -> None:
        self._held: list[Params] = []

    def push(self, tensors: Params) -> None:
        self._held.append(list(tensors))

    def pop(self) -> Params:
        return self._held.pop()


class OnHost:
    """In the host's memory."""

    def __init__(self) -> None:
        self._held: list[tuple[torch.device, Params]] = []

    def push(self, tensors: Params) -> None:
        self._held.append((tensors[0].device, [tensor.cpu() for tensor in tensors]))

    def pop(self) -> Params:
        device, tensors = self._held.pop()
        return [tensor.to(device) for tensor in tensors]


class OnDisk:
    """In a folder, one file a snapshot, written over by the next unroll.

    Args:
        folder: exists, and is this process's alone.

    Raises:
        OSError: the disk is full or gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: list[list[_Look]] = []

    def push(self, tensors: Params) -> None:
        with open(self._file(len(self._held)), "wb") as file:
            for tensor in tensors:
                tensor.detach().cpu().flatten().view(torch.uint8).numpy().tofile(file)
        self._held.append([_Look(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors])

    def pop(self) -> Params:
        looks = self._held.pop()
        with open(self._file(len(self._held)), "rb") as file:
            return [look.read(file) for look in looks]

    def _file(self, position: int) -> Path:
        return self.folder / f"{position:04d}.snapshot"


class _Look(NamedTuple):
    """What a tensor's bytes do not tell."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def read(self, file: IO[bytes]) -> Tensor:
        data = np.fromfile(file, dtype=np.uint8, count=self.shape.numel() * self.dtype.itemsize)
        return torch.from_numpy(data).view(self.dtype).reshape(self.shape).to(self.device)
