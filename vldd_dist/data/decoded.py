"""Decoded pictures of a split, kept on the node for all its processes: experts that train side by side, and all epochs of each,
decode a picture once.

One file in the node's cache folder, in which every picture has its place; what was read or written lately lies in memory, once
for the machine. A picture has its checksum beside it: one that is half written, or damaged, is decoded again.
"""

import fcntl
import logging
import os
import uuid
import zlib
from pathlib import Path
from typing import Self

import numpy as np
import PIL
import torch
from torch import Tensor

from vldd_dist.storage.cache import NodeCache
from vldd_dist.storage.files import TEMPORARY

CHECKSUM = np.dtype("<u4")

logger = logging.getLogger(__name__)


class DecodedPictures:
    """Pictures (3, size, size) uint8 by their index, from `get`, once somebody has `put` them."""

    def __init__(self, path: Path, images: int, size: int) -> None:
        # Held while this process lives: whoever makes room sees that the file is in use.
        self._file = open(path, "r+b")  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_SH)
        self._checksums = np.memmap(self._file, CHECKSUM, "r+", 0, (images,))
        self._pictures = np.memmap(self._file, np.uint8, "r+", images * CHECKSUM.itemsize, (images, 3, size, size))

    @classmethod
    def open(cls, cache: NodeCache, name: str, images: int, size: int, limit_bytes: int) -> Self | None:
        """Args:
            name: of the split's content; whoever gives the same shares the pictures.
            limit_bytes: what all pictures may take.

        Returns:
            None where they take more, or the node has no cache or no room for them.
        """
        total = images * (3 * size**2 + CHECKSUM.itemsize)
        if cache.limit_bytes == 0 or total > limit_bytes:
            return None
        # Another version of the decoder may round otherwise.
        path = cache.folder / "decoded" / f"{name}-{size}-pillow-{PIL.__version__}"
        try:
            # One process makes the file, as large as it is, while the others wait.
            with cache.lock("decoded"):
                if not path.exists():
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _remove_unused(path.parent)
                    _create(path, total)
                return cls(path, images, size)
        except OSError as error:
            logger.warning("decoded pictures are not kept in %s: %s", path.parent, error)
            return None

    def get(self, index: int) -> Tensor | None:
        """A copy; none where it is not here."""
        expected = int(self._checksums[index])
        if expected == 0:
            return None
        picture = self._pictures[index].copy()
        return torch.from_numpy(picture) if zlib.crc32(picture.data) == expected else None

    def put(self, index: int, picture: Tensor) -> None:
        array = picture.contiguous().numpy()
        self._pictures[index] = array
        self._checksums[index] = zlib.crc32(array.data)


def _create(path: Path, size: int) -> None:
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            # Now, with an error: on a full disk, writing into a mapped hole would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink(missing_ok=True)
