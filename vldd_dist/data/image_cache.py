"""Decoded pictures of a split, kept on the node for all its processes: experts that train side by side, and all epochs of each,
decode a picture once.

One file in the node's cache folder, in which every picture has its place; what was read or written lately lies in the system's
memory, once for the machine. A picture has its sha256 before it: one that is half written, or damaged, is decoded again.
"""

import contextlib
import fcntl
import os
from hashlib import sha256
from io import FileIO
from typing import Self

import numpy as np
import PIL
import torch
from torch import Tensor

from vldd_dist.store.node_cache import NodeCache, lock, warn
from vldd_dist.store.private_folder import PrivateFolder

DIGEST_BYTES = 32


class DecodedPictures:
    """Pictures (3, size, size) uint8 by their index, from `get`, once somebody has `put` them.

    Args:
        file: of `images` records, each the sha256 of a picture and the picture. It is read and written, not mapped: what is
            wrong with a disk is then an error, and not the end of the process.
    """

    def __init__(self, file: FileIO, images: int, size: int) -> None:
        self._file, self._images, self._size = file, images, size
        # Held while this process lives: whoever makes room sees that the file is in use.
        fcntl.flock(file, fcntl.LOCK_SH)

    @classmethod
    def open(cls, cache: NodeCache, name: str, images: int, size: int, limit_bytes: int) -> Self | None:
        """Args:
            name: of the split's content; whoever gives the same shares the pictures.
            limit_bytes: what all pictures may take.

        Returns:
            None where they take more, or the node has no cache or no room for them.
        """
        total = images * (DIGEST_BYTES + 3 * size**2)
        if cache.limit_bytes == 0 or total > limit_bytes:
            return None
        # Another version of the decoder may round otherwise.
        name = f"{name}-{size}-pillow-{PIL.__version__}"
        try:
            # One process makes the file, as large as it is, while the others wait.
            with cache.open() as root, lock(root, "decoded"), root.folder("decoded") as folder:
                if not _is_whole(folder, name, total):
                    _remove_unused(folder)
                    _create(folder, name, total)
                file = folder.open_file(name, os.O_RDWR)
                try:
                    return cls(file, images, size)
                except BaseException:
                    file.close()
                    raise
        except OSError as error:
            warn(f"decoded pictures are not kept in {cache.folder}", error)
            return None

    def get(self, index: int) -> Tensor | None:
        """A copy; none where it is not here."""
        record = bytearray(self._record_bytes)
        try:
            count = os.preadv(self._file.fileno(), [record], self._start(index))
        except OSError as error:
            warn("a decoded picture cannot be read from the node's cache", error)
            return None
        digest, picture = memoryview(record)[:DIGEST_BYTES], memoryview(record)[DIGEST_BYTES:]
        if count < len(record) or not any(digest) or sha256(picture).digest() != digest:
            return None
        return torch.from_numpy(np.frombuffer(picture, np.uint8).reshape(3, self._size, self._size))

    def put(self, index: int, picture: Tensor) -> None:
        data = picture.contiguous().numpy().reshape(-1).data
        try:
            os.pwritev(self._file.fileno(), [sha256(data).digest(), data], self._start(index))
        except OSError as error:
            warn("a decoded picture cannot be kept in the node's cache", error)

    @property
    def _record_bytes(self) -> int:
        return DIGEST_BYTES + 3 * self._size**2

    def _start(self, index: int) -> int:
        assert 0 <= index < self._images
        return index * self._record_bytes


def _is_whole(folder: PrivateFolder, name: str, size: int) -> bool:
    try:
        return folder.status(name).st_size == size
    except FileNotFoundError:
        return False


def _create(folder: PrivateFolder, name: str, size: int) -> None:
    with folder.new_file(name) as file:
        # Now, while nothing hangs on it: a disk that is too full says so at once.
        os.posix_fallocate(file.fileno(), 0, size)


def _remove_unused(folder: PrivateFolder) -> None:
    for name in folder.names():
        with contextlib.suppress(OSError), folder.open_file(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.unlink(name)
