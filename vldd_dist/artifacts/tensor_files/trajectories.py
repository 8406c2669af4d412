"""Trajectories: the snapshots of an expert, one object for each tower and epoch, named by content so that equal ones are
stored once (`snapshot_parts` says what is in them).

A reader fetches only the snapshots that it needs, and can prefetch them. It can also fetch only some elements of a snapshot:
each rank of a sharded student reads its own slices.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.row_files import row_file_name, row_files_of
from vldd_dist.artifacts.tensor_files.snapshot_parts import decode_snapshot, keys_of
from vldd_dist.artifacts.tensor_files.tensor_cache import NamedTensors, TensorCache
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import ObjectInfo

# Tower -> parameter -> range [start, stop) of its elements, flattened in row-major order.
ShardSlices = Mapping[str, Mapping[str, tuple[int, int]]]

_NAME = re.compile(r"^epoch-(\d{4})/(?:image|text)\b.*\.safetensors$")


def snapshot_stem(epoch: int, tower: str) -> str:
    """The name, without rank and extension, of a tower's parameters after `epoch` epochs."""
    return f"epoch-{epoch:04d}/{tower}"


def snapshot_name(epoch: int, tower: str, rank: int = 0, world_size: int = 1) -> str:
    """The name of the object with one rank's elements of a tower after `epoch` epochs."""
    return row_file_name(snapshot_stem(epoch, tower), rank, world_size)


def write_snapshots(
    writer: UnitWriter, epoch: int, encoded: Mapping[str, bytes], rank: int = 0, world_size: int = 1
) -> dict[str, ObjectInfo]:
    """Store the trainable parameters after `epoch` epochs as blobs, the towers in parallel.

    Args:
        encoded: tower -> bytes from `encode_snapshot`.

    Returns:
        Object name -> description, to be listed by `UnitWriter.adopt`.
    """
    with ThreadPoolExecutor(len(encoded)) as pool:
        infos = list(pool.map(writer.put_blob, encoded.values()))
    names = (snapshot_name(epoch, tower, rank, world_size) for tower in encoded)
    return dict(zip(names, infos, strict=True))


class Trajectory:
    """An expert's snapshots, read on demand. Several trajectories may share a cache.

    Args:
        shard_slices: the elements of each snapshot that are read, as 1-D tensors; None: whole snapshots. All trajectories
            that share a cache must have the same.
    """

    def __init__(self, reader: UnitReader, cache: TensorCache, shard_slices: ShardSlices | None = None) -> None:
        self.reader, self.cache, self.shard_slices = reader, cache, shard_slices

    @property
    def epochs(self) -> list[int]:
        """Epochs with a snapshot, ascending."""
        matches = (_NAME.match(name) for name in self.reader.manifest.objects)
        return sorted({int(match[1]) for match in matches if match})

    def snapshot(self, epoch: int, tower: str) -> NamedTensors:
        """Parameters of one tower by name. The tensors are shared with the cache and must not be changed."""
        return self.cache.get(self._digest(epoch, tower), lambda: self._load(epoch, tower))

    def prefetch(self, epoch: int, towers: Sequence[str]) -> None:
        """Start reading the snapshots of these towers after an epoch in threads, for a later `snapshot`; those for which the
        cache has no room are left to it."""
        for tower in towers:
            self.cache.prefetch(self._digest(epoch, tower), self._size(epoch, tower), partial(self._load, epoch, tower))

    def slices(self, epoch: int, tower: str, ranges: Mapping[str, tuple[int, int]]) -> NamedTensors:
        """Some elements of some parameters. Only the objects' headers and the blocks that hold these elements are read, and
        nothing is cached in memory.

        Args:
            ranges: parameter -> range [start, stop) of its elements, flattened in row-major order.

        Returns:
            1-D tensors by name, of the stored dtype.

        Raises:
            StoreError: the snapshot has no such parameter or element, or is damaged.
        """
        pieces: dict[str, list[Tensor]] = {name: [] for name in ranges}
        # Elements of each parameter in the objects so far.
        counts = dict.fromkeys(ranges, 0)
        for object_name in self._objects(epoch, tower):
            header = _Header(self.reader, object_name)
            # Parameter and range within the tensor, by the tensor's name in the object.
            parameter_of: dict[str, str] = {}
            wanted: dict[str, tuple[int, int]] = {}
            for name, (start, stop) in ranges.items():
                for key in keys_of(name, header.spans):
                    first, count = counts[name], header.spans[key].elements
                    counts[name] += count
                    limits = max(start - first, 0), min(stop - first, count)
                    if limits[0] < limits[1]:
                        parameter_of[key], wanted[key] = name, limits
            for key, values in header.read(wanted).items():
                pieces[parameter_of[key]].append(values)
        for name, (start, stop) in ranges.items():
            if not 0 <= start <= stop <= counts[name]:
                source = self.reader.url(self._objects(epoch, tower)[0])
                raise StoreError(f"{source}: has no elements {start} to {stop} of {name!r}")
        return {name: torch.cat(values) if values else torch.empty(0) for name, values in pieces.items()}

    def _load(self, epoch: int, tower: str) -> NamedTensors:
        if self.shard_slices is not None:
            return self.slices(epoch, tower, self.shard_slices[tower])
        names = self._objects(epoch, tower)
        return decode_snapshot([self.reader.read(name) for name in names], [self.reader.url(name) for name in names])

    def _size(self, epoch: int, tower: str) -> int:
        """The bytes in memory of what `_load` returns, if it is float32."""
        if self.shard_slices is not None:
            return sum(stop - start for start, stop in self.shard_slices[tower].values()) * torch.float32.itemsize
        return sum(self.reader.info(name).size for name in self._objects(epoch, tower))

    def _objects(self, epoch: int, tower: str) -> list[str]:
        source = self.reader.store.url_of(self.reader.prefix)
        if epoch not in (kept := self.epochs):
            raise StoreError(
                f"{source}: this expert has no snapshot of epoch {epoch}, only of {kept}: an objective names the epochs that "
                "it reads in `reached_epochs`, and experts.keep: all keeps every one"
            )
        return row_files_of(snapshot_stem(epoch, tower), self.reader.manifest.objects, source)

    def _digest(self, epoch: int, tower: str) -> str:
        return " ".join(self.reader.info(name).sha256 for name in self._objects(epoch, tower))


class _Header:
    """The positions of the tensors in a snapshot's object. Only the header is read until `read` is called."""

    def __init__(self, reader: UnitReader, name: str) -> None:
        self.reader, self.name = reader, name
        self.url, size = reader.url(name), reader.info(name).size
        (length,) = reader.read_ranges(name, [(0, tensors.LENGTH_BYTES)])
        self.end = tensors.header_end(length, size, self.url)
        (text,) = reader.read_ranges(name, [(tensors.LENGTH_BYTES, self.end)])
        self.spans = tensors.parse_header(text, size - self.end, self.url)

    def read(self, ranges: Mapping[str, tuple[int, int]]) -> NamedTensors:
        """Elements [start, stop) of each tensor; no range may be empty."""
        in_bytes = [tensors.element_range(self.spans, name, *limits, self.url) for name, limits in ranges.items()]
        encoded = self.reader.read_ranges(self.name, [(self.end + start, self.end + stop) for start, stop in in_bytes])
        return {
            # A bytearray, because torch expects writable memory.
            name: torch.frombuffer(bytearray(data), dtype=self.spans[name].dtype)
            for name, data in zip(ranges, encoded, strict=True)
        }
