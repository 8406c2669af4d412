"""Tensors as bytes of a safetensors file."""

import subprocess
import sys

import torch

from vldd_dist.artifacts.tensor_files import tensors

MEMORY = """
import resource, torch
from vldd_dist.artifacts.tensor_files import tensors

named = {str(number): torch.ones(16 << 20) for number in range(3)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = tensors.encode(named)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (len(data) / 1024))
"""


def test_tensors_that_share_memory_or_are_not_contiguous_are_encoded() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    named = {
        "whole": whole,
        "again": whole,
        "row": whole[1],
        "transposed": whole.T,
        "none": torch.empty(0, 3),
        "none again": torch.empty(0, 3),
        "images": torch.arange(16.0).reshape(1, 2, 2, 4).to(memory_format=torch.channels_last),
    }
    data = tensors.encode(named)
    found = tensors.decode(data, "test")
    assert list(found) == sorted(named)
    assert all(torch.equal(found[name], tensor) for name, tensor in named.items())
    whole[:] = 0
    assert torch.equal(tensors.decode(data, "test")["again"], torch.arange(12.0).reshape(3, 4))


def test_encoding_takes_no_third_copy() -> None:
    """The bytes, and a part of them for safetensors. A checkpoint of many pairs takes much of a worker's memory."""
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 2.2
