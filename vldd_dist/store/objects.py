"""Objects: bytes whose size and sha256 are recorded in a manifest. For a large object it also records the sha256 of each block,
so that blocks can be read, verified and cached independently and in parallel.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple, TypeVar

from pydantic import Field

from vldd_dist.errors import StoreError
from vldd_dist.store.cache.node_cache import node_cache
from vldd_dist.store.store import Store
from vldd_dist.strict_model import StrictModel

BLOCK_BYTES = 8 << 20
PARALLEL_READS = 8
# The largest integer that every JSON reader represents exactly; no store holds an object of this size.
LARGEST_BYTES = 2**53

Out = TypeVar("Out")


class DamagedObject(StoreError):
    """An object differs from what was written. Its unit has to run again."""


class Block(NamedTuple):
    """`length` bytes of an object from byte `start`, and their sha256. A small object is a single block."""

    start: int
    length: int
    sha256: str


class Blocks(StrictModel):
    """The sha256 of each block of `size` bytes, in order; the last block may be shorter."""

    size: int = Field(gt=0, le=LARGEST_BYTES)
    sha256: list[str]


class ObjectInfo(StrictModel):
    """An object's key (relative to the store or folder), its size in bytes and its sha256 in hex."""

    key: str
    size: int = Field(ge=0, le=LARGEST_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    blocks: Blocks | None = Field(None, description="blocks of an object that is larger than one block")

    @classmethod
    def of(cls, key: str, data: bytes) -> "ObjectInfo":
        """The description of `data` under `key`."""
        if len(data) <= BLOCK_BYTES:
            return cls(key=key, size=len(data), sha256=sha256_hex(data))
        view, starts = memoryview(data), range(0, len(data), BLOCK_BYTES)
        with ThreadPoolExecutor(2) as pool:
            whole = pool.submit(sha256_hex, view)
            blocks = list(pool.map(lambda start: sha256_hex(view[start : start + BLOCK_BYTES]), starts))
            return cls(key=key, size=len(data), sha256=whole.result(), blocks=Blocks(size=BLOCK_BYTES, sha256=blocks))

    def verify(self, data: bytes, source: str) -> bytes:
        """Returns the data. Raises DamagedObject naming `source` if its size or sha256 differs."""
        return _verified(data, Block(0, self.size, self.sha256), source)

    def block_list(self) -> list[Block]:
        """The object's blocks in order. Raises DamagedObject if their number does not match the object's size."""
        if self.blocks is None:
            return [Block(0, self.size, self.sha256)]
        size, digests = self.blocks.size, self.blocks.sha256
        starts = range(0, self.size, size)
        if len(starts) != len(digests):
            raise DamagedObject(f"{self.key}: {len(digests)} blocks of {size} bytes do not make {self.size} bytes")
        return [Block(start, min(size, self.size - start), digest) for start, digest in zip(starts, digests, strict=True)]


def read_object(store: Store, info: ObjectInfo) -> bytes:
    """The whole object, verified. Raises DamagedObject or MissingObject naming it."""
    if store.is_local:
        return again_if_damaged(lambda: info.verify(store.read(info.key), store.url_of(info.key)))
    return b"".join(_read_blocks(store, info, info.block_list()))


def read_ranges(store: Store, info: ObjectInfo, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes [start, stop) of each range, verified. Only the blocks that overlap a range are read.

    Raises:
        DamagedObject, MissingObject: naming the object.
    """

    def overlaps(block: Block) -> bool:
        return any(start < block.start + block.length and stop > block.start for start, stop in ranges)

    blocks = [block for block in info.block_list() if overlaps(block)]
    data_of = dict(zip(blocks, _read_blocks(store, info, blocks), strict=True))

    def cut(start: int, stop: int) -> bytes:
        return b"".join(data[max(0, start - block.start) : max(0, stop - block.start)] for block, data in data_of.items())

    return [cut(start, stop) for start, stop in ranges]


def load_block(store: Store, info: ObjectInfo, block: Block) -> bytes:
    """One block, read from the store and not from the node's cache, and verified. Raises DamagedObject or MissingObject."""
    source = store.url_of(info.key)

    def read() -> bytes:
        if block.length == info.size:
            return info.verify(store.read(info.key, info.size), source)
        return _verified(store.read_range(info.key, block.start, block.length), block, source)

    return again_if_damaged(read)


def again_if_damaged(read: Callable[[], Out]) -> Out:
    """The result of reading and verifying. If it raises DamagedObject, it is called once more: bytes may be damaged on their
    way, or in this machine's memory, and a checkpoint that is taken for damaged is removed."""
    try:
        return read()
    except DamagedObject:
        return read()


def _read_blocks(store: Store, info: ObjectInfo, blocks: list[Block]) -> list[bytes]:
    def read(block: Block) -> bytes:
        if store.is_local:
            return load_block(store, info, block)
        return node_cache().get(block.sha256, block.length, lambda: load_block(store, info, block))

    if len(blocks) == 1:
        return [read(blocks[0])]
    return list(_readers(os.getpid()).map(read, blocks))


@lru_cache(maxsize=1)
def _readers(process: int) -> ThreadPoolExecutor:
    """One pool for all objects, so that reading several objects in parallel does not multiply the threads. It is cached by
    process id, because a forked process does not inherit its parent's threads."""
    return ThreadPoolExecutor(PARALLEL_READS)


def sha256_hex(data: bytes | memoryview) -> str:
    """The sha256 of the data in hex."""
    return sha256(data).hexdigest()


def _verified(data: bytes, block: Block, source: str) -> bytes:
    if len(data) != block.length:
        raise DamagedObject(f"{source}: {len(data)} bytes, its manifest says {block.length}: the object is damaged")
    if sha256_hex(data) != block.sha256:
        where = f" (bytes {block.start} to {block.start + block.length})" if block.start else ""
        raise DamagedObject(f"{source}: its sha256 differs from the manifest's{where}: the object is damaged")
    return data
