"""Local files that others name."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: str | Path) -> BufferedReader:
    """A regular file, for reading.

    Raises:
        OSError: it cannot be opened, or is none: a FIFO would be waited for, a device read for ever.
        ValueError: the name holds a NUL, or what no file name can hold.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(descriptor, "rb")
