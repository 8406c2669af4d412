"""Exceptions in one line, and whether their cause lies in the unit or around it.

Standard library only: Ray sends these functions, by value, to processes in which none of our modules can be imported.
"""

import os
import re
import traceback

PACKAGE = "vldd_dist"
LONGEST_MESSAGE = 400

# Terminal sequences: CSI; OSC up to BEL or ST; others of two characters. Control characters are removed after them.
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|\x9b[0-?]*[ -/]*[@-~]")
_FRAME = re.compile(rf'File "[^"\n]*/{PACKAGE}/([^"\n]+)", line (\d+)')
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def plain(text: str) -> str:
    """One line without colour codes and control characters."""
    return " ".join(_CONTROLS.sub(" ", _SEQUENCES.sub("", text)).split())


def chain(error: BaseException) -> list[BaseException]:
    """The exception, its cause, the cause of that, and so on; the innermost is last."""
    found = [error]
    while True:
        # Ray's RayTaskError keeps the worker's exception in `cause`.
        inner = found[-1].__cause__ or getattr(found[-1], "cause", None)
        if not isinstance(inner, BaseException) or any(inner is known for known in found):
            return found
        found.append(inner)


def describe(error: BaseException) -> str:
    """Type, location and message of the innermost exception. The location is the last frame inside our package, as FILE:LINE
    relative to it; without one, the last frame."""
    errors = chain(error)
    inner = errors[-1]
    message = _shortened(plain(str(inner)))
    location = _location(errors)
    return f"{type(inner).__name__}{f' at {location}' if location else ''}{f': {message}' if message else ''}"


def _shortened(text: str) -> str:
    """A long text without its middle: the reason is often at the end, after a colon."""
    half = LONGEST_MESSAGE // 2
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} ... {text[-half:]}"


def _location(errors: list[BaseException]) -> str:
    for error in reversed(errors):
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            _, found, below = frame.filename.rpartition(f"{os.sep}{PACKAGE}{os.sep}")
            if found:
                return f"{below}:{frame.lineno}"
        # For an exception from another process, Ray keeps the traceback as text.
        if frames_of_ours := _FRAME.findall(getattr(error, "traceback_str", None) or ""):
            return ":".join(frames_of_ours[-1])
    for error in reversed(errors):
        if frames := traceback.extract_tb(error.__traceback__):
            return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
    return ""


def is_of_the_machine(error: BaseException) -> bool:
    """Whether the cause lies around the unit and not in it: a module that cannot be imported or was imported half, a working
    directory that is gone, or Ray."""
    for one in chain(error):
        # Units do not call Ray; only their reports go through its queue.
        if any(kind.__module__.partition(".")[0] == "ray" for kind in type(one).__mro__):
            return True
        if isinstance(one, ImportError):
            return True
        if isinstance(one, AttributeError) and "partially initialized module" in str(one):
            return True
        # Raised by `os.getcwd`, also for a relative path; every other call names the file.
        if isinstance(one, FileNotFoundError) and one.filename is None:
            return True
    return False
