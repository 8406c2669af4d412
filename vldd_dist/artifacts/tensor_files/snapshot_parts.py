"""The content of a snapshot's object: a tower's parameters, or a rank's elements of them.

A small snapshot has a tensor NAME for each parameter: by one process whole, by a rank of several its elements (n,). A snapshot
of at least `LARGE_BYTES` has tensors `part-K/NAME`, (n,): the object's elements of part K of the parameter, for K from 0 to
`PARTS` - 1. Part K is the rows that FSDP gives to rank K of `PARTS`. safetensors orders tensors of one type by name, so a part
of all parameters is one range of bytes, of which a rank of 2, 4 or 8 reads whole blocks. (If each parameter were in one piece,
almost every block of 8 MiB would hold elements of every rank.)

The metadata of an object with flat tensors hold the parameters' whole shapes.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from vldd_dist.artifacts.tensor_files import tensors

# One object has all parts, so that a snapshot takes no more requests than without them.
PARTS = 8
# Smaller snapshots (of heads, LoRA) are a few blocks, which every rank reads.
LARGE_BYTES = 64 << 20


def encode_snapshot(
    shards: Mapping[str, Tensor], owned: Mapping[str, tuple[int, int]], shapes: Mapping[str, Sequence[int]], world_size: int
) -> bytes:
    """The content of a rank's object.

    Args:
        shards: the rank's elements (n,) of each parameter of a tower, in row-major order.
        owned: the range [start, stop) of the elements that these are.
        shapes: shapes of the whole parameters.
        world_size: number of ranks that write the snapshot.
    """
    metadata = {"shapes": json.dumps({name: list(shape) for name, shape in shapes.items()})}
    if sum(prod(shapes[name]) * shard.itemsize for name, shard in shards.items()) >= LARGE_BYTES:
        return tensors.encode(
            {
                key: part
                for name, shard in shards.items()
                for key, part in zip(_part_keys(name), _parts(shard, owned[name], shapes[name]), strict=True)
            },
            metadata,
        )
    if world_size == 1:
        return tensors.encode({name: shard.view(torch.Size(shapes[name])) for name, shard in shards.items()})
    return tensors.encode(dict(shards), metadata)


def decode_snapshot(objects: Sequence[bytes], sources: Sequence[str]) -> dict[str, Tensor]:
    """The whole parameters of a tower, from the objects of all ranks that wrote it, in order.

    Args:
        sources: what error messages call the objects.
    """
    decoded = [tensors.decode(data, source) for data, source in zip(objects, sources, strict=True)]
    shapes = tensors.metadata(objects[0]).get("shapes")
    if shapes is None:
        return decoded[0]
    # Each part is freed once it is copied.
    return {
        name: torch.cat([of_object.pop(key) for of_object in decoded for key in keys_of(name, of_object)]).view(shape)
        for name, shape in json.loads(shapes).items()
    }


def keys_of(name: str, stored: Mapping[str, object]) -> list[str]:
    """The names under which an object with the tensors `stored` holds elements of a parameter, in their order."""
    return [key for key in (name, *_part_keys(name)) if key in stored]


def _part_keys(name: str) -> list[str]:
    return [f"part-{part}/{name}" for part in range(PARTS)]


def _parts(shard: Tensor, owned: tuple[int, int], shape: Sequence[int]) -> list[Tensor]:
    """Views of the elements of each part, some of which may be empty."""
    rows, width = (shape[0], prod(shape[1:])) if shape else (1, 1)
    length = -(-rows // PARTS) * width
    start, stop = owned
    # Where the parts begin and end within the shard.
    edges = [min(max(part * length, start), stop) - start for part in range(PARTS + 1)]
    return [shard[first:end] for first, end in pairwise(edges)]
