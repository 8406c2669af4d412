"""Tensors as bytes, in the safetensors format only. Nothing is ever unpickled.

A safetensors file consists of eight bytes for the header's length, the header in JSON, and the bytes of the tensors.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from math import prod
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vldd_dist import strict_json
from vldd_dist.errors import DataError, OtherOnThisMachine, StoreError
from vldd_dist.store.user_files.opening import open_url
from vldd_dist.store.user_files.reachability import check_reachable, reason_of

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


class TensorSpan(NamedTuple):
    """The position of a tensor in a file: its first byte, counted from the end of the header, its number of elements and
    dtype."""

    start: int
    elements: int
    dtype: torch.dtype


def encode(named: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Deterministic safetensors bytes: names are sorted, tensors are moved to the CPU and made contiguous."""
    return save(_private({name: named[name].detach() for name in sorted(named)}), metadata)


def _private(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous and each with memory of its own, without which safetensors refuses them. Only what has
    not is copied, because a checkpoint of many pairs takes much of a worker's memory."""
    taken: set[int] = set()
    private = {}
    for name, tensor in named.items():
        found = tensor.cpu().contiguous()
        # A view of a larger tensor may share its memory with another one.
        storage = found.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != found.nbytes:
            found = found.clone()
        taken.add(found.untyped_storage().data_ptr())
        private[name] = found
    return private


def decode(data: bytes, source: str) -> dict[str, Tensor]:
    """Tensors by name, in the order of their names. Raises StoreError naming `source` for a pickle, a truncated or an
    inconsistent file."""
    if problem := _problem(data):
        raise StoreError(f"{source}: {problem}")
    return _load(data, source, StoreError)


def metadata(data: bytes) -> dict[str, str]:
    """The metadata that were given to `encode`, from bytes that `decode` accepts."""
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    return json.loads(data[LENGTH_BYTES:end]).get("__metadata__", {})


def read_file(url: str, wanted: str) -> dict[str, Tensor]:
    """The tensors in a user's .safetensors file, floating-point ones as float32.

    Args:
        wanted: the file's sha256 when the run was planned.

    Raises:
        OtherOnThisMachine: the file is missing, cannot be read, or has another sha256.
        DataError: the file is a pickle, or is damaged.
        StoreError: the file cannot be reached at the moment.
    """
    try:
        with open_url(url) as file:
            data = file.read()
    except FileNotFoundError:
        raise OtherOnThisMachine(f"{url}: no such file: name a .safetensors file") from None
    except Exception as error:
        # Client libraries of object stores raise exceptions of their own.
        check_reachable(url, error)
        raise OtherOnThisMachine(
            f"{url}: cannot be read ({reason_of(error)}): name a .safetensors file that this user may read"
        ) from None
    # Compared first: a copy that has just begun, or was cut, is another file on this machine and not a damaged one.
    if sha256(data).hexdigest() != wanted:
        raise OtherOnThisMachine(
            f"{url}: has changed since the run was planned, or is another file on this machine: start the run again, or give "
            "every machine the same file"
        )
    if problem := _problem(data):
        raise DataError(f"{url}: {problem}")
    tensors = _load(data, url, DataError)
    return {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in tensors.items()}


def header_end(length: bytes, size: int, source: str) -> int:
    """The position of the first byte after the header.

    Args:
        length: the file's first eight bytes.
        size: size of the file, bytes.

    Raises:
        StoreError: the header would be longer than the file.
    """
    end = LENGTH_BYTES + int.from_bytes(length, "little")
    if len(length) != LENGTH_BYTES or end > size:
        raise StoreError(f"{source}: not a complete safetensors file: its header does not fit into its {size} bytes")
    return end


def parse_header(text: bytes, size: int, source: str) -> dict[str, TensorSpan]:
    """Name -> position of each tensor.

    Args:
        text: the header's JSON.
        size: number of bytes that follow the header.

    Raises:
        StoreError: the header does not describe the bytes that follow it.
    """
    try:
        tree = strict_json.parse(text)
        tree.pop("__metadata__", None)
        spans = {}
        for name, entry in tree.items():
            (start, stop), dtype, shape = entry["data_offsets"], DTYPES[entry["dtype"]], entry["shape"]
            if not all(type(number) is int and number >= 0 for number in (start, stop, *shape)):
                raise ValueError(f"{name} has an offset or a size that is not a natural number")
            elements = prod(shape)
            if not start <= stop <= size or stop - start != elements * dtype.itemsize:
                raise ValueError(f"{name} lies outside the file")
            spans[name] = TensorSpan(start, elements, dtype)
        return spans
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{source}: not a valid safetensors file: {error}") from None


def element_range(spans: Mapping[str, TensorSpan], name: str, start: int, stop: int, source: str) -> tuple[int, int]:
    """The range of bytes, counted from the end of the header, that holds elements [start, stop) of a tensor.

    Raises:
        StoreError: there is no such tensor, or it has fewer elements.
    """
    if name not in spans or not 0 <= start <= stop <= spans[name].elements:
        raise StoreError(f"{source}: has no elements {start} to {stop} of {name!r}")
    span = spans[name]
    return span.start + start * span.dtype.itemsize, span.start + stop * span.dtype.itemsize


def _problem(data: bytes) -> str | None:
    """What is wrong with a safetensors file, with the way to correct it; None if its beginning is valid."""
    # The length of a safetensors header may happen to begin with the same two bytes as a pickle or a zip file.
    if len(data) > 8 and int.from_bytes(data[:8], "little") <= len(data) - 8 and data[8:9] == b"{":
        return None
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickle (.pt, .pth, .bin), which is never opened because it can run code: convert it to .safetensors"
    if len(data) < 8 or int.from_bytes(data[:8], "little") > len(data) - 8:
        return f"not a complete safetensors file ({len(data)} bytes): it was truncated, or is another kind of file"
    return None


def _load(data: bytes, source: str, error_class: type[DataError] | type[StoreError]) -> dict[str, Tensor]:
    try:
        # safetensors returns them in an order that differs from call to call; cards and reports would differ too.
        return dict(sorted(load(data).items()))
    except (SafetensorError, ValueError, KeyError) as error:
        raise error_class(f"{source}: not a valid safetensors file: {error}") from None
