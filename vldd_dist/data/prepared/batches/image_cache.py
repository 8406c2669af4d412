"""Decoded images of a split, cached on a node for all its processes, so that experts on one node decode each image once.

The cache is one file in the node's cache folder, with a fixed position for every image. The operating system keeps recently
used parts in its page cache, once for all processes. Each image is stored with its sha256; an incomplete or damaged one is
decoded again.
"""

import contextlib
import fcntl
import logging
import math
import os
from hashlib import sha256
from io import FileIO
from typing import Self

import numpy as np
import PIL
import torch
from torch import Tensor

from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.store.cache.node_cache import NodeCache, node_cache
from vldd_dist.store.cache.private_folder import PrivateFolder, lock, warn

DIGEST_BYTES = 32

logger = logging.getLogger(__name__)


class DecodedImages:
    """A file of decoded images (3, size, size) uint8, read by `get` and written by `put`, by index.

    Args:
        file: `images` records, each the sha256 of an image followed by the image. It is not mapped into memory, so that a disk
            fault raises an exception instead of killing the process.
    """

    def __init__(self, file: FileIO, images: int, size: int) -> None:
        self._file, self._images, self._size = file, images, size
        # Held until the process ends, so that `_remove_unused` of other processes sees that the file is in use.
        fcntl.flock(file, fcntl.LOCK_SH)

    @classmethod
    def of(cls, dataset: Dataset, split: str, limit_bytes: int) -> Self | None:
        """The decoded images of a split on this node; None as for `open`."""
        # Named after the content of the shards and not after the unit, which may have other shards in another store.
        info = dataset.splits[split]
        content = sha256("".join(shard.sha256 for shard in info.shards).encode()).hexdigest()
        return cls.open(node_cache(), content, info.images, dataset.image_size, limit_bytes)

    @classmethod
    def open(cls, cache: NodeCache, name: str, images: int, size: int, limit_bytes: int) -> Self | None:
        """Open the cache's file, and create it if necessary.

        Args:
            name: identifies the content of the split; equal names share a file.
            limit_bytes: maximal size of the file.

        Returns:
            None if the file would be larger, or the node has no cache or not enough disk space.
        """
        total = images * (DIGEST_BYTES + 3 * size**2)
        if limit_bytes and total > limit_bytes:
            logger.warning(
                "experts.cache_mib (%d) is less than the %d MiB of the split: not used",
                limit_bytes >> 20,
                math.ceil(total / 2**20),
            )
        if cache.limit_bytes == 0 or total > limit_bytes:
            return None
        # Other versions of Pillow may decode to slightly different pixels.
        name = f"{name}-{size}-pillow-{PIL.__version__}"
        try:
            # One process creates the file in its full size while the others wait.
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
            warn(f"decoded images cannot be cached in {cache.folder}", error)
            return None

    def get(self, index: int) -> Tensor | None:
        """A copy of an image, or None if it is not cached."""
        record = bytearray(self._record_bytes)
        try:
            count = os.preadv(self._file.fileno(), [record], self._start(index))
        except OSError as error:
            warn("a decoded image cannot be read from the node's cache", error)
            return None
        digest, image = memoryview(record)[:DIGEST_BYTES], memoryview(record)[DIGEST_BYTES:]
        if count < len(record) or not any(digest) or sha256(image).digest() != digest:
            return None
        return torch.from_numpy(np.frombuffer(image, np.uint8).reshape(3, self._size, self._size))

    def put(self, index: int, image: Tensor) -> None:
        """Cache an image."""
        data = image.contiguous().numpy().reshape(-1).data
        try:
            os.pwritev(self._file.fileno(), [sha256(data).digest(), data], self._start(index))
        except OSError as error:
            warn("a decoded image cannot be written to the node's cache", error)

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
        # The disk space is allocated now, so that a full disk is noticed before the cache is used.
        os.posix_fallocate(file.fileno(), 0, size)


def _remove_unused(folder: PrivateFolder) -> None:
    for name in folder.names():
        with contextlib.suppress(OSError), folder.open_file(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.unlink(name)
