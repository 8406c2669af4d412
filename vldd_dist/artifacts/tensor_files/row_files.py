"""Named tensors whose rows are distributed over several safetensors files, one for each rank that wrote them.

A single file is called NAME.safetensors; several are called NAME-00001-of-00003.safetensors etc., in the order of the rows.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vldd_dist.errors import StoreError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def row_file_name(name: str, index: int, count: int) -> str:
    """The name of file `index` (from 0) of `count`."""
    return f"{name}.safetensors" if count == 1 else f"{name}-{index + 1:05d}-of-{count:05d}.safetensors"


def row_file_number(name: str, file: str) -> tuple[int, int] | None:
    """(index, count) such that `row_file_name(name, index, count) == file`; None if `file` is not a file of `name`."""
    if file == row_file_name(name, 0, 1):
        return 0, 1
    match = re.fullmatch(rf"{re.escape(name)}-(\d{{5}})-of-(\d{{5}})\.safetensors", file)
    return (int(match[1]) - 1, int(match[2])) if match else None


def row_files_of(name: str, names: Iterable[str], source: str) -> list[str]:
    """The files among `names` that together hold the rows of `name`, in order.

    Raises:
        StoreError: there are none, or some are missing.
    """
    files = {number: file for file in names if (number := row_file_number(name, file))}
    if (0, 1) in files:
        return [files[0, 1]]
    counts = [count for _, count in files]
    expected = [(index, counts[0]) for index in range(counts[0])] if counts else []
    if not expected or sorted(files) != expected:
        raise StoreError(f"{source}: lists neither {name}.safetensors nor a complete series of its row files: make it again")
    return [files[number] for number in expected]


def concatenated(files: "Iterable[dict[str, Tensor]]", source: str) -> "dict[str, Tensor]":
    """The tensors of all files, each concatenated along dimension 0.

    Raises:
        StoreError: the files do not hold the same tensor names, dtypes and row shapes.
    """
    # Importing it takes more than a second, and commands that only read a set's manifest need no tensors.
    import torch

    all_files = list(files)
    first = all_files[0]
    if len(all_files) == 1:
        return first
    for number, tensors in enumerate(all_files, 1):
        # A tensor without dimensions has no rows to concatenate.
        if not all(tensor.ndim for tensor in tensors.values()) or _row_types(tensors) != _row_types(first):
            raise StoreError(f"{source}: row file {number} has other names, shapes or types than row file 1: make it again")
    return {name: torch.cat([tensors[name] for tensors in all_files]) for name in first}


def _row_types(tensors: "dict[str, Tensor]") -> "dict[str, tuple[torch.Size, torch.dtype]]":
    """Name -> shape of a row and dtype."""
    return {name: (tensor.shape[1:], tensor.dtype) for name, tensor in tensors.items()}
