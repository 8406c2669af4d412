"""Tensors as bytes: safetensors only. Nothing is ever unpickled."""

import fsspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vldd_dist.errors import DataError, StoreError


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
