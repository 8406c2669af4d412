"""Tensors of many rows in several objects, written by whoever has the rows and read as one.

One object is NAME.safetensors; several are NAME-00001-of-00003.safetensors and so on, in the order of the rows.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from vldd_dist.errors import StoreError


def part_name(name: str, part: int, parts: int) -> str:
    """The name of object `part` (0..) of `parts`."""
    return f"{name}.safetensors" if parts == 1 else f"{name}-{part + 1:05d}-of-{parts:05d}.safetensors"


def parts_of(name: str, names: Iterable[str], source: str) -> list[str]:
    """Of an artefact's object names those that hold `name`, in order.

    Raises:
        StoreError: none, or not all of them.
    """
    names = list(names)
    if part_name(name, 0, 1) in names:
        return [part_name(name, 0, 1)]
    found = [match for candidate in names if (match := re.fullmatch(rf"{name}-(\d{{5}})-of-(\d{{5}})\.safetensors", candidate))]
    expected = [part_name(name, part, int(found[0][2])) for part in range(int(found[0][2]))] if found else []
    if not found or sorted(match[0] for match in found) != expected:
        raise StoreError(f"{source}: names no {name}.safetensors, nor all parts of one")
    return expected


def joined(parts: Iterable[dict[str, Tensor]], source: str) -> dict[str, Tensor]:
    """The rows of all parts, tensor by tensor.

    Raises:
        StoreError: parts that do not hold the same tensors, or rows of different shapes or types.
    """
    first, *others = given = list(parts)
    if not others:
        return first
    for number, part in enumerate(given, 1):
        # A tensor without dimensions has no rows.
        if not all(tensor.ndim for tensor in part.values()) or _row_types(part) != _row_types(first):
            raise StoreError(f"{source}: part {number} does not hold rows of the names, shapes and types that part 1 holds")
    return {name: torch.cat([part[name] for part in given]) for name in first}


def _row_types(part: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape[1:], tensor.dtype) for name, tensor in part.items()}
