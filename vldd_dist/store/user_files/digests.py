"""The sha256 of users' files, which identifies them."""

import os
import time
from functools import lru_cache
from hashlib import file_digest

from vldd_dist.store.user_files.opening import open_url

# The digest of a local file that was changed less than this many seconds ago is not kept: it may change again without another
# time of change, because the clock of a file system is coarse.
SETTLED_SECONDS = 2


def sha256_of(url: str) -> str:
    """In hex, of a file, local or at a URL. Raises what `open_url` raises."""
    with open_url(url) as file:
        return file_digest(file, "sha256").hexdigest()


def sha256_of_local(path: str | os.PathLike[str]) -> str:
    """The same of a local file. It is kept until the file's size or times change, because each group of images or captions asks
    for it."""
    name = os.fspath(path)
    status = os.stat(name)
    if time.time() - status.st_ctime < SETTLED_SECONDS:
        return sha256_of(name)
    return _of_state(name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache
def _of_state(path: str, *state: int) -> str:
    return sha256_of(path)
