"""Opening local files whose names come from untrusted data."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened or is not a regular file. (A FIFO would block, a device could be endless.) Of a folder, it
            is an IsADirectoryError.
        ValueError: the name contains a NUL or cannot be encoded.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")
