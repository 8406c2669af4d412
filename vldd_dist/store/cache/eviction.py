"""Evicting blocks from the node's cache."""

import contextlib
import os
import stat
import time

from vldd_dist.store.backends.local_files import TEMPORARY
from vldd_dist.store.cache.private_folder import PrivateFolder

# An older temporary file was left by a process that died.
ABANDONED_SECONDS = 3600
# Names of the cache's folders of blocks.
HEX_PAIRS = frozenset(f"{number:02x}" for number in range(256))


def evict(root: PrivateFolder, newest: str, limit: int, free: int = 0) -> None:
    """Remove the least recently read blocks until at most `limit` bytes are left, and abandoned temporary files.

    Args:
        newest: digest of a block that must stay.
        free: remove at least this many bytes, or all.
    """
    blocks, total, freed = [], 0, 0
    for prefix in HEX_PAIRS & set(root.names()):
        for name, status in _blocks(root, prefix):
            if name.startswith(TEMPORARY):
                if status.st_mtime < time.time() - ABANDONED_SECONDS:
                    _remove(root, prefix, name)
                continue
            total += status.st_size
            if name != newest:
                blocks.append((status.st_mtime_ns, status.st_size, prefix, name))
    for _, size, prefix, name in sorted(blocks):
        if total <= limit and freed >= free:
            return
        # A process that has the file open can still read it.
        _remove(root, prefix, name)
        total, freed = total - size, freed + size


def _blocks(root: PrivateFolder, prefix: str) -> list[tuple[str, os.stat_result]]:
    """(name, status) of the files in a folder of the cache."""
    files = []
    # A folder that is a symbolic link or belongs to another user is not part of the cache and is ignored.
    with contextlib.suppress(OSError), root.folder(prefix) as folder:
        for name in folder.names():
            with contextlib.suppress(FileNotFoundError):
                status = folder.status(name)
                if stat.S_ISREG(status.st_mode):
                    files.append((name, status))
    return files


def _remove(root: PrivateFolder, prefix: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError), root.folder(prefix) as folder:
        folder.unlink(name)
