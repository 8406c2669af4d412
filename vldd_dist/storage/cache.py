"""The node's cache: verified pieces of remote objects on the local disk, shared by all processes of a machine.

    VLDD_CACHE_DIR      where; a folder of this user's under the system's temporary folder unless set
    VLDD_CACHE_GIB      how much, 16 unless set; 0 for none

A piece is named by its sha256, and checked against it whenever it is read: neither a crash, nor a damaged disk, nor
another user can make a reader see anything else. One process fills a piece while others that want it wait. Beyond the
limit the least recently read goes first.
"""

import contextlib
import fcntl
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from vldd_dist.errors import ConfigError
from vldd_dist.storage.files import TEMPORARY

DEFAULT_GIB = 16.0
ABANDONED_SECONDS = 3600
# Room is made once as much has been filled, by whatever process, as this fraction of the limit; as much is then left free.
LOOK_AFTER = 1 / 32

logger = logging.getLogger(__name__)


def node_cache() -> "NodeCache":
    """The cache that the environment describes.

    Raises:
        ConfigError: VLDD_CACHE_GIB is no number of at least 0.
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
    """Pieces by sha256 under a folder, of `limit_bytes` in all."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes

    def get(self, digest: str, size: int, load: Callable[[], bytes]) -> bytes:
        """The piece with this sha256, loaded (by whom it is verified) unless it is here.

        A cache that cannot be used costs time, and a warning, but fails nothing.
        """
        if size > self.limit_bytes:
            return load()
        if (data := self._read(digest, size)) is not None:
            return data
        try:
            lock = self.lock(digest[:3])
        except OSError as error:
            logger.warning("the node's cache %s cannot be used: %s", self.folder, error)
            return load()
        with lock:
            # Another process may have filled it while this one waited.
            if (data := self._read(digest, size)) is not None:
                return data
            data = load()
            try:
                self._fill(digest, data)
            except OSError as error:
                logger.warning("the node's cache %s cannot be filled: %s", self.folder, error)
            return data

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _read(self, digest: str, size: int) -> bytes | None:
        path = self._path(digest)
        try:
            data = path.read_bytes()
            if len(data) == size and sha256(data).hexdigest() == digest:
                # The time of the last use is what eviction goes by.
                os.utime(path)
                return data
            logger.warning("a damaged piece of the node's cache is removed: %s", path)
            path.unlink()
        except OSError:
            pass
        return None

    def _fill(self, digest: str, data: bytes) -> None:
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        with self.lock("eviction"):
            # Looking through the folder after every fill would cost more than the fills.
            tally = self.folder / "filled"
            filled = (int(tally.read_text() or 0) if tally.exists() else self.limit_bytes) + len(data)
            if filled >= self.limit_bytes * LOOK_AFTER:
                self._evict(path, int(self.limit_bytes * (1 - LOOK_AFTER)))
                filled = 0
            tally.write_text(str(filled))

    def _evict(self, newest: Path, limit: int) -> None:
        pieces = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.name.startswith(TEMPORARY) and status.st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()
                elif path != newest:
                    pieces.append((status.st_mtime_ns, status.st_size, path))
        held = newest.stat().st_size + sum(size for _, size, _ in pieces)
        for _, size, path in sorted(pieces):
            if held <= limit:
                return
            # A reader that has it open reads on.
            path.unlink(missing_ok=True)
            held -= size

    def lock(self, name: str) -> "contextlib.AbstractContextManager[None]":
        """Held across processes and threads; the system frees it when its holder dies."""
        folder = self.folder / "locks"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_CREAT | os.O_RDWR, 0o600)
        return _locked(descriptor)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
