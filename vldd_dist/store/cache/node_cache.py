"""The node's cache: verified blocks of remote objects on the local disk, shared by all processes of a machine.

    VLDD_CACHE_DIR      the folder; by default a folder of this user in the system's temporary folder
    VLDD_CACHE_GIB      the size limit in GiB; 16 by default, 0 for no cache

A block is named by its sha256, which is checked whenever the block is read, so that neither a crash nor a damaged disk nor
another user can make a reader see other bytes. One process loads a block while others that need it wait. If the cache is larger
than its limit, or its disk nearly full, the least recently read blocks are removed. A fault of the folder or its disk causes a
warning and slower reads, but never a failure.
"""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from vldd_dist.errors import ConfigError
from vldd_dist.store.cache.eviction import evict
from vldd_dist.store.cache.private_folder import PrivateFolder, lock, warn, write_all

DEFAULT_GIB = 16.0
# Blocks are evicted whenever all processes together have written this fraction of the limit since the last eviction. Eviction
# frees the same fraction.
EVICTION_FRACTION = 1 / 32
# Whatever its limit is, the cache leaves this much of its disk free, or a twentieth of the disk if that is less.
LEFT_FREE_BYTES = 2 << 30
SHA256 = re.compile("[0-9a-f]{64}")
TALLY, LONGEST_TALLY = "filled", 20

logger = logging.getLogger(__name__)


def node_cache() -> "NodeCache":
    """The cache that the environment describes.

    Raises:
        ConfigError: VLDD_CACHE_GIB is not a number of at least 0.
    """
    folder = os.environ.get("VLDD_CACHE_DIR") or os.path.join(tempfile.gettempdir(), f"vldd-cache-{os.getuid()}")
    text = os.environ.get("VLDD_CACHE_GIB", str(DEFAULT_GIB))
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < float("inf"):
        raise ConfigError(f"VLDD_CACHE_GIB={text}: give the size of the node's cache in GiB, 0 for none")
    return NodeCache(Path(folder), int(gib * 2**30))


class NodeCache:
    """A folder of blocks named by their sha256, with a total size of about `limit_bytes`."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes

    def get(self, digest: str, size: int, load: Callable[[], bytes]) -> bytes:
        """The block with this sha256. If it is not cached, `load` is called, which must verify it and whose errors are
        raised."""
        # The digest becomes a file name, and the manifest that it comes from may have been tampered with.
        if size > self.limit_bytes or not SHA256.fullmatch(digest):
            return load()
        if (cached := self._read_without_lock(digest, size)) is not None:
            return cached
        with self._locked(digest) as root:
            if root is None:
                return load()
            # Another process may have written the block while this one waited for the lock.
            if (cached := _read(root, digest, size)) is not None:
                return cached
            data = load()
            try:
                self._fill(root, digest, data)
            except OSError as error:
                warn(f"the node's cache {self.folder} cannot be filled", error)
            return data

    def open(self) -> PrivateFolder:
        """The cache's folder. Raises OSError if it cannot be created, or if other users can access it."""
        return PrivateFolder(self.folder)

    def _read_without_lock(self, digest: str, size: int) -> bytes | None:
        """The block; None if it is not cached, or if the cache cannot be used."""
        with contextlib.suppress(OSError), self.open() as root:
            return _read(root, digest, size)
        return None

    @contextlib.contextmanager
    def _locked(self, digest: str) -> Iterator[PrivateFolder | None]:
        """The cache's folder, and the lock of the block; None, after a warning, if the cache cannot be used."""
        root: PrivateFolder | None
        with contextlib.ExitStack() as held:
            try:
                root = held.enter_context(self.open())
                held.enter_context(lock(root, digest[:3]))
            except OSError as error:
                warn(f"the node's cache {self.folder} cannot be used", error)
                root = None
            yield root

    def _fill(self, root: PrivateFolder, digest: str, data: bytes) -> None:
        if (missing := _missing_bytes(root, len(data))) > 0:
            with lock(root, "eviction"):
                evict(root, digest, self.limit_bytes, free=missing)
            if _missing_bytes(root, len(data)) > 0:
                return
        with root.folder(digest[:2]) as folder, folder.new_file(digest) as file:
            write_all(file, data)
        with lock(root, "eviction"):
            # Not after every write, because eviction lists the whole folder, which takes longer than the write.
            filled = self._filled(root) + len(data)
            if filled >= self.limit_bytes * EVICTION_FRACTION:
                evict(root, digest, int(self.limit_bytes * (1 - EVICTION_FRACTION)))
                filled = 0
            with root.new_file(TALLY) as file:
                write_all(file, str(filled).encode())

    def _filled(self, root: PrivateFolder) -> int:
        """Bytes written since the last eviction. If the tally is lost, the limit, so that blocks are evicted now."""
        try:
            with root.open_file(TALLY) as file:
                text = file.read(LONGEST_TALLY)
        except OSError:
            return self.limit_bytes
        return int(text) if text.isdigit() else self.limit_bytes


def _missing_bytes(root: PrivateFolder, size: int) -> int:
    """Bytes that the disk lacks for a block of this size and for what is left to other programs; not positive if none."""
    free, total = root.disk()
    return size + min(LEFT_FREE_BYTES, total // 20) - free


def _read(root: PrivateFolder, digest: str, size: int) -> bytes | None:
    """The block, or None if it is not cached or cannot be read; a damaged one is removed."""
    try:
        with root.folder(digest[:2]) as folder:
            with folder.open_file(digest) as file:
                data = file.readall() if os.fstat(file.fileno()).st_size == size else b""
                if len(data) == size and sha256(data).hexdigest() == digest:
                    # Eviction uses this time. The disk may be read-only.
                    with contextlib.suppress(OSError):
                        os.utime(file.fileno())
                    return data
            logger.warning("removed a damaged block from the node's cache: %s", folder.path / digest)
            folder.unlink(digest)
    except OSError:
        pass
    return None
