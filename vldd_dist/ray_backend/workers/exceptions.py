"""Describes exceptions in one line, and tells whether their cause is in the unit or around it.

This module uses only the standard library, because Ray sends its functions by value to processes in which our modules may fail
to import.
"""

import errno
import os
import re
import traceback

PACKAGE = "vldd_dist"
LONGEST_MESSAGE = 400

# Terminal sequences: CSI; OSC up to BEL or ST; others of two characters. They must be removed before control characters.
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|\x9b[0-?]*[ -/]*[@-~]")
_FRAME = re.compile(rf'File "[^"\n]*/{PACKAGE}/([^"\n]+)", line (\d+)')
# What torch says if a GPU or its driver does not work. A failed assertion on the device is an error of the program.
_BROKEN_GPU = ("cuda error", "cuda driver", "nvidia driver", "no cuda gpus are available", "cudagetdevicecount")
# A full, read-only or broken disk; too few file descriptors, processes or too little memory for a fork.
_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM),
}
_DEVICE_ASSERT = "device-side assert"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def plain(text: str) -> str:
    """The text as one line, without colour codes and control characters."""
    return " ".join(_CONTROLS.sub(" ", _SEQUENCES.sub("", text)).split())


def chain(error: BaseException) -> list[BaseException]:
    """The exception, its cause, the cause of that, and so on; the innermost is last."""
    errors = [error]
    while True:
        # Ray's RayTaskError has the worker's exception in `cause`.
        inner = errors[-1].__cause__ or getattr(errors[-1], "cause", None)
        if not isinstance(inner, BaseException) or any(inner is other for other in errors):
            return errors
        errors.append(inner)


def describe(error: BaseException) -> str:
    """Type, location and message of the innermost exception. The location is the last frame inside our package, as FILE:LINE
    relative to it; if there is none, the last frame of all."""
    errors = chain(error)
    inner = errors[-1]
    message = _shortened(plain(str(inner)))
    location = _location(errors)
    return f"{type(inner).__name__}{f' at {location}' if location else ''}{f': {message}' if message else ''}"


def _shortened(text: str) -> str:
    """The text, with its middle left out if it is long: the reason is often at the end, after a colon."""
    half = LONGEST_MESSAGE // 2
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} ... {text[-half:]}"


def _location(errors: list[BaseException]) -> str:
    for error in reversed(errors):
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            _, package, path = frame.filename.rpartition(f"{os.sep}{PACKAGE}{os.sep}")
            if package:
                return f"{path}:{frame.lineno}"
        # For an exception from another process, Ray keeps the traceback as text.
        if frames_of_ours := _FRAME.findall(getattr(error, "traceback_str", None) or ""):
            return ":".join(frames_of_ours[-1])
    for error in reversed(errors):
        if frames := traceback.extract_tb(error.__traceback__):
            return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
    return ""


def is_of_the_machine(error: BaseException) -> bool:
    """Whether the cause is around the unit and not in it: a module that cannot be imported or is only partly imported, a
    working directory that was removed, a full disk, a GPU or driver that does not work, or Ray."""
    for one in chain(error):
        # Units do not call Ray themselves; only their reports go through its queue.
        if any(kind.__module__.partition(".")[0] == "ray" for kind in type(one).__mro__):
            return True
        if isinstance(one, ImportError):
            return True
        if isinstance(one, AttributeError) and "partially initialized module" in str(one):
            return True
        # `os.getcwd`, which resolving a relative path calls too, raises it without a file name; other calls name the file.
        if isinstance(one, FileNotFoundError) and one.filename is None:
            return True
        if isinstance(one, OSError) and one.errno in _ERRNOS:
            return True
        text = str(one).lower()
        if _DEVICE_ASSERT not in text and any(words in text for words in _BROKEN_GPU):
            return True
    return False
