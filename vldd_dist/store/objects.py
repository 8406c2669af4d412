"""Objects: bytes whose size and sha256 a manifest knows. A large one also has the sha256 of each block, so that parts of it
are read, verified and kept on a node by themselves, several at once.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from vldd_dist.errors import StoreError
from vldd_dist.store.node_cache import node_cache
from vldd_dist.store.store import Store

BLOCK_BYTES = 8 << 20
PARALLEL_PIECES = 8
# What every reader of JSON counts exactly, and more than any store takes.
LARGEST_BYTES = 2**53


class DamagedObject(StoreError):
    """An object is not what was once written: making it again mends it."""


class Piece(NamedTuple):
    """`length` bytes from `start`, and their sha256."""

    start: int
    length: int
    sha256: str


class Blocks(BaseModel):
    """The sha256 of each `size` bytes in turn; the last block may be shorter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(gt=0, le=LARGEST_BYTES)
    sha256: list[str]


class ObjectInfo(BaseModel):
    """Where an object lies (key relative to the store or folder), its size in bytes and its sha256 in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    size: int = Field(ge=0, le=LARGEST_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    blocks: Blocks | None = Field(None, description="of objects larger than one block")

    @classmethod
    def of(cls, key: str, data: bytes) -> "ObjectInfo":
        if len(data) <= BLOCK_BYTES:
            return cls(key=key, size=len(data), sha256=sha256_hex(data))
        view, starts = memoryview(data), range(0, len(data), BLOCK_BYTES)
        with ThreadPoolExecutor(2) as pool:
            whole = pool.submit(sha256_hex, view)
            blocks = list(pool.map(lambda start: sha256_hex(view[start : start + BLOCK_BYTES]), starts))
            return cls(key=key, size=len(data), sha256=whole.result(), blocks=Blocks(size=BLOCK_BYTES, sha256=blocks))

    def verify(self, data: bytes, source: str) -> bytes:
        """The data itself. Raises DamagedObject naming the source when size or sha256 differ."""
        return _verified(data, Piece(0, self.size, self.sha256), source)

    def pieces(self) -> list[Piece]:
        """The blocks in order; of a small object, itself. Raises DamagedObject when they do not add up to its size."""
        if self.blocks is None:
            return [Piece(0, self.size, self.sha256)]
        size, digests = self.blocks.size, self.blocks.sha256
        starts = range(0, self.size, size)
        if len(starts) != len(digests):
            raise DamagedObject(f"{self.key}: {len(digests)} blocks of {size} bytes do not make {self.size} bytes")
        return [Piece(start, min(size, self.size - start), digest) for start, digest in zip(starts, digests, strict=True)]


def read_object(store: Store, info: ObjectInfo) -> bytes:
    """The whole object, verified. Raises DamagedObject or MissingObject naming it."""
    if store.is_local:
        return info.verify(store.read(info.key), store.url_of(info.key))
    return b"".join(_read_pieces(store, info, info.pieces()))


def read_ranges(store: Store, info: ObjectInfo, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of each [start, stop), verified: of a large object only the blocks that hold them are read.

    Raises:
        DamagedObject, MissingObject: naming the object.
    """
    pieces = [
        piece
        for piece in info.pieces()
        if any(start < piece.start + piece.length and stop > piece.start for start, stop in ranges)
    ]
    held = dict(zip(pieces, _read_pieces(store, info, pieces), strict=True))

    def cut(start: int, stop: int) -> bytes:
        return b"".join(data[max(0, start - piece.start) : max(0, stop - piece.start)] for piece, data in held.items())

    return [cut(start, stop) for start, stop in ranges]


def load_piece(store: Store, info: ObjectInfo, piece: Piece) -> bytes:
    """One piece straight from the store, verified. Raises DamagedObject or MissingObject naming the object."""
    source = store.url_of(info.key)
    if piece.length == info.size:
        return info.verify(store.read(info.key), source)
    return _verified(store.read_range(info.key, piece.start, piece.length), piece, source)


def _read_pieces(store: Store, info: ObjectInfo, pieces: list[Piece]) -> list[bytes]:
    def read(piece: Piece) -> bytes:
        if store.is_local:
            return load_piece(store, info, piece)
        return node_cache().get(piece.sha256, piece.length, lambda: load_piece(store, info, piece))

    if len(pieces) == 1:
        return [read(pieces[0])]
    return list(_readers(os.getpid()).map(read, pieces))


@lru_cache(maxsize=1)
def _readers(process: int) -> ThreadPoolExecutor:
    """Shared by all objects that are read at once, so that their number does not multiply. A forked process has none of its
    parent's threads and makes its own."""
    return ThreadPoolExecutor(PARALLEL_PIECES)


def sha256_hex(data: bytes | memoryview) -> str:
    return sha256(data).hexdigest()


def _verified(data: bytes, piece: Piece, source: str) -> bytes:
    if len(data) != piece.length:
        raise DamagedObject(f"{source}: {len(data)} bytes, its manifest says {piece.length}: the object is damaged")
    if sha256_hex(data) != piece.sha256:
        where = f" (bytes {piece.start} to {piece.start + piece.length})" if piece.start else ""
        raise DamagedObject(f"{source}: its sha256 differs from the manifest's{where}: the object is damaged")
    return data
