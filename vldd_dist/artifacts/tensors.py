"""Tensors as bytes: safetensors only. Nothing is ever unpickled.

A safetensors file is eight bytes of length, so many bytes of JSON header, then the tensors' bytes.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import fsspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vldd_dist import strict_json
from vldd_dist.errors import DataError, StoreError

LENGTH_BYTES = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Place(NamedTuple):
    """Where a tensor lies in a file: its first byte after the header, how many elements of what."""

    start: int
    elements: int
    dtype: torch.dtype


def encode(named: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Deterministic safetensors bytes: names sorted, tensors on the CPU and contiguous."""
    # Cloned because safetensors refuses tensors that share memory.
    return save(
        {name: named[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(named)}, metadata
    )


def decode(data: bytes, source: str) -> dict[str, Tensor]:
    """Tensors by name. Raises StoreError naming `source` for a pickle, a cut or a lying file."""
    if problem := _problem(data):
        raise StoreError(f"{source}: {problem}")
    return _load(data, source, StoreError)


def metadata(data: bytes) -> dict[str, str]:
    """What `encode` was given beside the tensors, of bytes that `decode` has read."""
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    return json.loads(data[LENGTH_BYTES:end]).get("__metadata__", {})


def read_file(url: str) -> dict[str, Tensor]:
    """A user's .safetensors file, float tensors as float32.

    Raises:
        DataError: missing, a pickle, or damaged.
    """
    try:
        with fsspec.open(url, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise DataError(f"{url}: no such file: name a .safetensors file") from None
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(f"{url}: cannot be read ({reason}): name a .safetensors file that this user may read") from None
    if problem := _problem(data):
        raise DataError(f"{url}: {problem}")
    tensors = _load(data, url, DataError)
    return {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in tensors.items()}


def header_end(length: bytes, size: int, source: str) -> int:
    """Where the header of a file of `size` bytes ends, from its first eight. Raises StoreError for a length that lies."""
    end = LENGTH_BYTES + int.from_bytes(length, "little")
    if len(length) != LENGTH_BYTES or end > size:
        raise StoreError(f"{source}: no whole safetensors file: its header does not fit into its {size} bytes")
    return end


def parse_header(text: bytes, size: int, source: str) -> dict[str, Place]:
    """Where each tensor lies, from the header's JSON and the `size` in bytes of what follows it.

    Raises:
        StoreError: a header that does not describe what follows it.
    """
    try:
        tree = strict_json.parse(text)
        tree.pop("__metadata__", None)
        places = {}
        for name, entry in tree.items():
            (start, stop), dtype, shape = entry["data_offsets"], DTYPES[entry["dtype"]], entry["shape"]
            if not all(type(number) is int and number >= 0 for number in (start, stop, *shape)):
                raise ValueError(f"{name} has an offset or a size that is no whole number")
            elements = prod(shape)
            if not start <= stop <= size or stop - start != elements * dtype.itemsize:
                raise ValueError(f"{name} lies outside the file")
            places[name] = Place(start, elements, dtype)
        return places
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{source}: no valid safetensors file: {error}") from None


def element_range(places: Mapping[str, Place], name: str, start: int, stop: int, source: str) -> tuple[int, int]:
    """Bytes after the header that hold elements [start, stop) of a tensor. Raises StoreError when it has none such."""
    if name not in places or not 0 <= start <= stop <= places[name].elements:
        raise StoreError(f"{source}: has no elements {start} to {stop} of {name!r}")
    place = places[name]
    return place.start + start * place.dtype.itemsize, place.start + stop * place.dtype.itemsize


def _problem(data: bytes) -> str | None:
    # A safetensors file begins with its header's length, whose bytes may happen to be a pickle's or a zip's first two.
    if len(data) > 8 and int.from_bytes(data[:8], "little") <= len(data) - 8 and data[8:9] == b"{":
        return None
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickle (.pt, .pth, .bin), which is never opened for it can run code: convert it to .safetensors"
    if len(data) < 8 or int.from_bytes(data[:8], "little") > len(data) - 8:
        return f"no whole safetensors file ({len(data)} bytes): it was cut short or is something else"
    return None


def _load(data: bytes, source: str, error_class: type[DataError] | type[StoreError]) -> dict[str, Tensor]:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise error_class(f"{source}: no valid safetensors file: {error}") from None
