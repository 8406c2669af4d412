"""Where the unroll keeps its snapshots until the sweep back: on the student's device, in host memory, or on disk."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import Tensors


class SnapshotStack(Protocol):
    """A stack of snapshots (last in, first out)."""

    def push(self, tensors: Tensors) -> None:
        """Keep the values. The caller must not change them afterwards."""
        ...

    def pop(self) -> Tensors:
        """Remove the snapshot pushed last, and return it on the device that it came from."""
        ...


class InPlace:
    """Keeps references to the tensors, on the student's device."""

    def __init__(self) -> None:
        self._snapshots: list[Tensors] = []

    def push(self, tensors: Tensors) -> None:
        self._snapshots.append(list(tensors))

    def pop(self) -> Tensors:
        return self._snapshots.pop()


class OnHost:
    """Keeps copies in host memory."""

    def __init__(self) -> None:
        self._snapshots: list[tuple[torch.device, Tensors]] = []

    def push(self, tensors: Tensors) -> None:
        self._snapshots.append((tensors[0].device, [tensor.cpu() for tensor in tensors]))

    def pop(self) -> Tensors:
        device, tensors = self._snapshots.pop()
        return [tensor.to(device) for tensor in tensors]


class OnDisk:
    """Writes the snapshots one after the other to a file without a name, so that its space is freed when the process ends, even
    if it is killed. The next unroll overwrites them.

    Args:
        folder: an existing folder on the disk to use.

    Raises:
        OSError: the disk is full or gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (open until `close`)
        # For each snapshot its position in the file, and how to read it.
        self._snapshots: list[tuple[int, list[_TensorLayout]]] = []

    def push(self, tensors: Tensors) -> None:
        position = self._file.tell()
        for tensor in tensors:
            tensor.detach().cpu().flatten().view(torch.uint8).numpy().tofile(self._file)
        self._snapshots.append((position, [_TensorLayout(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]))

    def pop(self) -> Tensors:
        position, layouts = self._snapshots.pop()
        self._file.seek(position)
        tensors = [layout.read(self._file) for layout in layouts]
        self._file.seek(position)
        return tensors

    def close(self) -> None:
        """Free the space."""
        self._file.close()


class _TensorLayout(NamedTuple):
    """What is needed beside its bytes to restore a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def read(self, file: IO[bytes]) -> Tensor:
        data = np.fromfile(file, dtype=np.uint8, count=self.shape.numel() * self.dtype.itemsize)
        return torch.from_numpy(data).view(self.dtype).reshape(self.shape).to(self.device)
